//! util-linux's `lsmem` reads the memory blocks' files as if they were Linux's.

use lab::{Output, run};
use mm::proc::{BLOCK_FILES, MEMORY_BLOCKS};
use shell::Verdict;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

const DIRECTORY: &str = "/sys/devices/system/memory";

/// Two nodes, memory that came later, a block of it out of use.
const MACHINE: &str = "\
machine
mem 0x0-0x9fbff usable
mem 0x100000-0x1fffffff usable
node 1 0x10000000-0x1fffffff
cmdline memhp_default_state=online_movable
end
hotadd 0x100000000 512M node=1
offline 0x108000000 128M
";

/// What the files at `paths` say on that machine.
fn read(paths: &[String]) -> Vec<String> {
    let mut script = String::from(MACHINE);
    for path in paths {
        writeln!(script, "echo @@\ncat {path}").unwrap();
    }
    let (output, said) = Output::kept();
    assert!(matches!(run(script.as_bytes(), false, &output).unwrap(), Verdict::Ok(_)));
    let said = said.text();
    let texts: Vec<_> = said.split("@@\n").skip(1).collect();
    let last = texts.last().and_then(|text| text.split_once("lab: "));
    let end = last.map(|(text, _)| text.to_string());
    let mut texts: Vec<_> = texts.iter().map(|text| (*text).to_string()).collect();
    *texts.last_mut().unwrap() = end.unwrap();
    texts
}

#[test]
fn lsmem_lists_our_blocks() {
    if Command::new("lsmem").arg("--version").output().is_err() {
        println!("lsmem is not installed");
        return;
    }
    let overview = read(&[MEMORY_BLOCKS.to_string()]).remove(0);
    let mut paths = vec![format!("{DIRECTORY}/block_size_bytes")];
    for line in overview.lines() {
        let (name, rest) = line.split_once(' ').unwrap();
        let node = rest.split(' ').find_map(|word| word.strip_prefix("node=")).unwrap();
        paths.push(format!("{DIRECTORY}/{name}/node{node}"));
        paths.extend(BLOCK_FILES.iter().map(|file| format!("{DIRECTORY}/{name}/{file}")));
    }
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lsmem");
    for (path, text) in paths.iter().zip(read(&paths)) {
        let file = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let listed = Command::new("lsmem")
        .args(["--raw", "--noheadings", "--output", "RANGE,STATE,BLOCK,NODE,ZONES", "--sysroot"])
        .arg(&root)
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    std::fs::remove_dir_all(&root).unwrap();
    for line in [
        "0x0000000008000000-0x000000000fffffff online 1 0 DMA32",
        "0x0000000010000000-0x000000001fffffff online 2-3 1 DMA32",
        "0x0000000100000000-0x0000000107ffffff online 32 1 Movable",
        "0x0000000108000000-0x000000010fffffff offline 33 1 Movable/Normal",
        "0x0000000110000000-0x000000011fffffff online 34-35 1 Movable",
    ] {
        assert!(listed.contains(line), "{line} is not in\n{listed}");
    }
}
