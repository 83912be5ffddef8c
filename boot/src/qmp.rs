//! QEMU's machine protocol (QMP): a JSON object a line, in both directions, over
//! pipes or a Unix socket.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long QEMU may take to answer, or to open its socket.
const ANSWER: Duration = Duration::from_secs(30);
/// How often a socket that is not there is looked for.
const POLL: Duration = Duration::from_millis(20);

/// Something that QEMU told without having been asked.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// When it came.
    pub at: Instant,
    /// Its name, such as `BALLOON_CHANGE`.
    pub name: String,
    /// What belongs to it.
    pub data: Value,
}

/// A monitor of a machine.
pub struct Qmp {
    to: Box<dyn Write>,
    from: Receiver<(Instant, Value)>,
    events: Vec<Event>,
}

impl Qmp {
    /// A monitor over two pipes, ready for commands; None if QEMU has ended.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn new(to: impl Write + 'static, from: impl Read + Send + 'static) -> Result<Option<Self>> {
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(from).lines().map_while(Result::ok);
            let values = lines.filter_map(|line| serde_json::from_str(&line).ok());
            // It ends with the program, or when nobody wants to know any more.
            { values }.try_for_each(|value: Value| sender.send((Instant::now(), value)))
        });
        let mut monitor = Self { to: Box::new(to), from: receiver, events: Vec::new() };
        Ok(monitor.execute("qmp_capabilities", &json!({}))?.map(|_| monitor))
    }

    /// A monitor that listens at a Unix socket, or will soon.
    ///
    /// # Errors
    /// As [`new`](Self::new), or it does not listen.
    pub fn connect(path: &Path) -> Result<Self> {
        let limit = Instant::now() + ANSWER;
        let socket = loop {
            match UnixStream::connect(path) {
                Ok(socket) => break socket,
                Err(_) if Instant::now() < limit => thread::sleep(POLL),
                Err(error) => bail!("cannot reach QEMU's monitor: {error}"),
            }
        };
        let monitor = Self::new(socket.try_clone()?, socket)?;
        monitor.context("QEMU has left before its monitor was used")
    }

    /// Has a command executed; what it returns, or None if QEMU has ended.
    ///
    /// # Errors
    /// QEMU refuses, or does not answer.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Option<Value>> {
        if writeln!(self.to, "{}", json!({ "execute": command, "arguments": arguments })).is_err() {
            return Ok(None);
        }
        let limit = Instant::now() + ANSWER;
        loop {
            match self.from.recv_timeout(limit.saturating_duration_since(Instant::now())) {
                Ok((at, mut answer)) => {
                    if let Some(value) = answer.get_mut("return") {
                        return Ok(Some(value.take()));
                    }
                    if let Some(error) = answer.get("error") {
                        bail!("QEMU says: {}", error["desc"].as_str().unwrap_or("no"));
                    }
                    // The greeting is neither.
                    self.events.extend(event(at, &answer));
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => bail!("QEMU does not answer"),
            }
        }
    }

    /// Has a command executed by a machine that has to be there.
    ///
    /// # Errors
    /// As [`execute`](Self::execute), or QEMU has ended.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.execute(command, arguments)?.context("QEMU has ended")
    }

    /// Has a line executed as the human monitor does; what it prints.
    ///
    /// # Errors
    /// As [`ask`](Self::ask). What the human monitor has to object is text too.
    pub fn human(&mut self, line: &str) -> Result<String> {
        let text = self.ask("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(text.as_str().unwrap_or_default().replace('\r', ""))
    }

    /// What QEMU has told since this was asked last.
    pub fn events(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.events);
        events.extend(self.from.try_iter().filter_map(|(at, answer)| event(at, &answer)));
        events
    }
}

fn event(at: Instant, answer: &Value) -> Option<Event> {
    let name = answer.get("event")?.as_str()?.to_owned();
    Some(Event { at, name, data: answer["data"].clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A monitor that answers each command by `answer`.
    fn monitor(answer: impl Fn(&str) -> String + Send + 'static) -> Result<Qmp> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            theirs.write_all(b"{\"QMP\": {}}\n").unwrap();
            for line in BufReader::new(theirs.try_clone().unwrap()).lines() {
                let command: Value = serde_json::from_str(&line.unwrap()).unwrap();
                let answer = match command["execute"].as_str().unwrap() {
                    "qmp_capabilities" => "{\"return\": {}}".to_owned(),
                    other => answer(other),
                };
                theirs.write_all(answer.as_bytes()).unwrap();
                theirs.write_all(b"\n").unwrap();
            }
        });
        Qmp::new(ours.try_clone().unwrap(), ours).map(Option::unwrap)
    }

    #[test]
    fn events_come_at_any_time() {
        let change = "{\"event\": \"BALLOON_CHANGE\", \"data\": {\"actual\": 7}}\n";
        let mut monitor = monitor(move |_| format!("{change}{{\"return\": 5}}\n{change}")).unwrap();
        assert_eq!(monitor.ask("x", &json!({})).unwrap(), json!(5));
        monitor.ask("y", &json!({})).unwrap();
        let events = monitor.events();
        assert!(events.len() >= 3, "{events:?}");
        assert_eq!(
            (events[0].name.as_str(), &events[0].data["actual"]),
            ("BALLOON_CHANGE", &json!(7))
        );
    }

    #[test]
    fn people_are_told_without_carriage_returns() {
        let mut monitor = monitor(|_| "{\"return\": \"a\\r\\nb\\r\\n\"}".into()).unwrap();
        assert_eq!(monitor.human("info balloon").unwrap(), "a\nb\n");
    }

    #[test]
    fn a_refusal_is_told() {
        let mut monitor = monitor(|_| "{\"error\": {\"desc\": \"no device\"}}".into()).unwrap();
        let told = monitor.ask("x", &json!({})).unwrap_err().to_string();
        assert_eq!(told, "QEMU says: no device");
    }

    #[test]
    fn a_monitor_that_is_gone_is_none() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(Qmp::new(ours.try_clone().unwrap(), ours).unwrap().is_none());
    }

    #[test]
    fn a_socket_may_come_late() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let late = path.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            let mut line = UnixListener::bind(late).unwrap().accept().unwrap().0;
            line.write_all(b"{\"QMP\": {}}\n{\"return\": {}}\n{\"return\": 1}\n").unwrap();
            let _ = line.read(&mut [0; 1]);
            thread::sleep(Duration::from_secs(5));
        });
        let mut monitor = Qmp::connect(&path).unwrap();
        assert_eq!(monitor.ask("x", &json!({})).unwrap(), json!(1));
    }
}
