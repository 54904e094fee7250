//! The server's own guest agent (qemu-ga), which runs lines of shell.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::wait::{pause, until};

/// How long an answer of the agent itself may take.
const ANSWER: Duration = Duration::from_mins(1);

/// How long the first one may, while it may not run yet.
const GREETING: Duration = Duration::from_secs(2);

/// How long a line may run.
const BOUND: Duration = Duration::from_mins(10);

/// How long nobody looks whether it has ended.
const LOOK: Duration = Duration::from_millis(500);

/// How a line of shell ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its exit code; -1 for a signal.
    pub code: i64,
    /// What it printed.
    pub output: String,
    /// What it complained about.
    pub errors: String,
}

/// Where the agent is reached.
#[derive(Debug)]
pub(super) struct Agent {
    socket: PathBuf,
}

impl Agent {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Whether it answers.
    pub(super) fn answers(&self) -> bool {
        self.call("guest-ping", &json!({}), GREETING).is_ok()
    }

    /// Runs a line of shell to its end.
    pub(super) fn shell(&self, line: &str) -> Result<Answer> {
        let start = json!({
            "path": "/bin/sh",
            "arg": ["-c", line],
            "env": [
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
                "DEBIAN_FRONTEND=noninteractive",
            ],
            "capture-output": true,
        });
        let pid = self.call("guest-exec", &start, ANSWER)?["pid"].take();
        let ended = until(&format!("the end of {line:?}"), BOUND, || {
            // Each look costs an emulated server something.
            pause(LOOK);
            let now = self.call("guest-exec-status", &json!({"pid": pid}), ANSWER)?;
            Ok((now["exited"] == true).then_some(now))
        })?;
        let text = |field: &str| ended[field].as_str().map(base64).unwrap_or_default();
        Ok(Answer {
            code: ended["exitcode"].as_i64().unwrap_or(-1),
            output: text("out-data"),
            errors: text("err-data"),
        })
    }

    /// One question on a connection of its own: what an earlier one left unread is nobody's.
    fn call(&self, command: &str, arguments: &Value, bound: Duration) -> Result<Value> {
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(bound))?;
        let mut reader = BufReader::new(&stream);
        // What is left over from before is skipped up to this answer.
        let token = i64::from(std::process::id());
        for (command, arguments) in [("guest-sync", &json!({"id": token})), (command, arguments)] {
            let question = json!({"execute": command, "arguments": arguments});
            writeln!(&stream, "{question}")?;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line)? == 0 {
                    bail!("the server's guest agent is gone");
                }
                let Ok(mut answer) = serde_json::from_str::<Value>(&line) else {
                    continue;
                };
                if command != "guest-sync" {
                    return match answer.get("error") {
                        Some(error) => bail!("{command}: {error}"),
                        None => Ok(answer["return"].take()),
                    };
                }
                if answer["return"] == token {
                    break;
                }
            }
        }
        None.context("unanswered")
    }
}

/// Base64 back to text; what isn't of its alphabet is skipped.
fn base64(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut held, mut bytes) = (0_u32, 0_u32, Vec::new());
    for letter in text.bytes() {
        let Some(value) = ALPHABET.iter().position(|&known| known == letter) else {
            continue;
        };
        bits = (bits << 6) | u32::try_from(value).unwrap_or_default();
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from((bits >> held) & 0xff).unwrap_or_default());
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        for (encoded, text) in [
            ("", ""),
            ("YQ==", "a"),
            ("YWI=", "ab"),
            ("5pyN5Yqh", "服务"),
        ] {
            assert_eq!(base64(encoded), text);
        }
    }
}
