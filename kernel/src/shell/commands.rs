//! The commands that only a kernel has. Calls `power`, `selftests`,
//! `benchmarks`, `leaks`, `view`.

use super::leaks;
use super::view;
use super::world::Subject;
use crate::arch::{percpu, time};
use crate::console::{self, input};
use crate::{benchmarks, drivers, numa, power, selftests, smp, workers};
use ::shell::{Errno, Error};
use quarry_kernel::options::Options;
use selftest::Level;

/// A command.
pub(super) struct Command {
    /// Name, synopsis, help, an example.
    pub(super) text: [&'static str; 4],
    /// What it does with the words after its name.
    pub(super) run: fn(&Subject, &[&str]) -> Result<(), Error>,
}

/// All of them.
pub(super) const COMMANDS: [Command; 10] = [
    Command {
        text: [
            "bench",
            "bench [GLOB]",
            "measures what operations of the memory manager cost",
            "bench pages.order*",
        ],
        run: bench,
    },
    Command {
        text: ["cpus", "cpus", "lists the CPUs that run, and their nodes", "cpus"],
        run: cpus,
    },
    Command {
        text: [
            "devices",
            "devices",
            "lists the devices on the PCI bus, and their drivers",
            "devices",
        ],
        run: |_, words| {
            none(words)?;
            drivers::each_function(&mut |line| console::print(format_args!("{line}\n")));
            Ok(())
        },
    },
    Command { text: ["dmesg", "dmesg", "prints the kernel's log", "dmesg"], run: dmesg },
    Command {
        text: [
            "leaks",
            "leaks [mark]",
            "says which call sites hold more pages than when it was marked",
            "leaks mark",
        ],
        run: leaks,
    },
    Command {
        text: ["poweroff", "poweroff", "switches the machine off", "poweroff"],
        run: |_, words| {
            none(words)?;
            power::off()
        },
    },
    Command {
        text: ["reboot", "reboot", "starts the machine anew", "reboot"],
        run: |_, words| {
            none(words)?;
            power::restart()
        },
    },
    Command {
        text: [
            "selftest",
            "selftest [GLOB]",
            "runs the self-tests again, those that GLOB selects",
            "selftest buddy.*",
        ],
        run: selftest,
    },
    Command {
        text: ["uptime", "uptime", "says how long the machine has been up", "uptime"],
        run: uptime,
    },
    Command {
        text: [
            "view",
            "view memory|off",
            "shows a live map of memory on the screen, beside the text",
            "view memory",
        ],
        run: |on, words| match at_most_one(words)? {
            Some("memory") => view::memory(on.mm),
            Some("off") => {
                view::off();
                Ok(())
            }
            _ => Err(Error::new(Errno::EINVAL, "view memory or view off")),
        },
    },
];

/// Their texts, for help and completion.
pub(super) static TEXTS: [[&str; 4]; COMMANDS.len()] = {
    let mut texts = [[""; 4]; COMMANDS.len()];
    let mut at = 0;
    while at < texts.len() {
        texts[at] = COMMANDS[at].text;
        at += 1;
    }
    texts
};

fn none(words: &[&str]) -> Result<(), Error> {
    at_most_one(words)?.map_or(Ok(()), |_| Err(Error::new(Errno::EINVAL, "takes no more words")))
}

fn at_most_one<'a>(words: &[&'a str]) -> Result<Option<&'a str>, Error> {
    match words {
        [] => Ok(None),
        [word] => Ok(Some(word)),
        _ => Err(Error::new(Errno::EINVAL, "takes one word at most")),
    }
}

fn bench(on: &Subject, words: &[&str]) -> Result<(), Error> {
    let glob = at_most_one(words)?.unwrap_or("*");
    let _quiet = workers::quiet();
    if benchmarks::run(on.mm, glob) {
        return Ok(());
    }
    Err(Error::new(Errno::EINVAL, "nothing was measured, or not all that was to be"))
}

fn cpus(_: &Subject, words: &[&str]) -> Result<(), Error> {
    none(words)?;
    let online = smp::online();
    for cpu in online.iter() {
        let here = if cpu == percpu::cpu_id() { ", runs this" } else { "" };
        console::print(format_args!("cpu {}: node {}{here}\n", cpu.0, numa::node_of_cpu(cpu).0));
    }
    console::print(format_args!("{} of {} CPUs run\n", online.len(), smp::possible()));
    Ok(())
}

fn dmesg(_: &Subject, words: &[&str]) -> Result<(), Error> {
    none(words)?;
    console::log_text(&mut |text| {
        console::print(format_args!("{text}"));
        !input::interrupted()
    });
    go_on()
}

/// Fails where the user wants the command to stop.
fn go_on() -> Result<(), Error> {
    if input::interrupted() {
        return Err(Error::new(Errno::EINTR, "interrupted"));
    }
    Ok(())
}

fn leaks(on: &Subject, words: &[&str]) -> Result<(), Error> {
    match at_most_one(words)? {
        None => leaks::report(on.mm),
        Some("mark") => leaks::mark(on.mm),
        Some(_) => Err(Error::new(Errno::EINVAL, "leaks or leaks mark")),
    }
}

fn selftest(on: &Subject, words: &[&str]) -> Result<(), Error> {
    let filter_glob = at_most_one(words)?;
    let selftest = match on.options.selftest {
        Level::Off => Level::Quick,
        level => level,
    };
    let options = Options { filter_glob, selftest, crash: None, ..on.options };
    match selftests::run(on.mm, &options, true).0.fail {
        0 => go_on(),
        _ => Err(Error::new(Errno::EIO, "not all self-tests passed")),
    }
}

fn uptime(_: &Subject, words: &[&str]) -> Result<(), Error> {
    none(words)?;
    let ms = time::now_ms();
    let (minutes, seconds) = (ms / 60_000, ms / 1000 % 60);
    console::print(format_args!("up {}:{:02}:{seconds:02}\n", minutes / 60, minutes % 60));
    Ok(())
}
