//! How questions and answers travel: frames over a stream.
//!
//! ```text
//!   length: 4 bytes, big-endian │ body: that many bytes of JSON
//!   client: one request         │ server: any number of answers, then one end
//! ```
//!
//! A request is one word; a server that doesn't know it refuses it, so that an agent and a helper of
//! different versions part in peace. A length is checked before anything of the body is read, and
//! memory is taken only for what has arrived.

use std::io;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{Answer, Failure, Request};

/// Longest request, in bytes.
pub const MAX_REQUEST_BYTES: u32 = 64;
/// Longest reply, in bytes.
pub const MAX_REPLY_BYTES: u32 = 4 * 1024 * 1024;
/// Longest text of an answer, in bytes: each can become six in JSON.
pub const MAX_TEXT_BYTES: usize = 512 * 1024;

/// A frame of the server's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// One of the answers.
    Answer(Answer),
    /// The last one has been sent.
    Done,
    /// Nothing was read; or the rest couldn't be.
    Failed(Failure),
    /// The request isn't answered to whoever sent it, or isn't understood.
    Refused(String),
}

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream ended before the frame did, or broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// It announces more than may be sent.
    #[error("a frame of {length} bytes, where at most {most} are taken")]
    TooLong {
        /// What is announced.
        length: u32,
        /// What is taken.
        most: u32,
    },
    /// Its body is none of the words.
    #[error("a frame that is no message: {0}")]
    Malformed(serde_json::Error),
}

/// Reads a request.
///
/// # Errors
///
/// There is none, or something else.
pub async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Result<Request, Error> {
    read(stream, MAX_REQUEST_BYTES).await
}

/// Reads a reply.
///
/// # Errors
///
/// There is none, or something else.
pub async fn read_reply(stream: &mut (impl AsyncRead + Unpin)) -> Result<Reply, Error> {
    read(stream, MAX_REPLY_BYTES).await
}

/// Writes a frame.
///
/// # Errors
///
/// The stream broke.
pub async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    stream.write_all(&encode(message)?).await?;
    stream.flush().await
}

/// A frame's bytes.
///
/// # Errors
///
/// It is longer than its length can say.
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes()[..], &body].concat())
}

impl Reply {
    /// An answer that fits a frame: what is longer wasn't read at all.
    pub fn answer(mut answer: Answer) -> Self {
        if let Ok(output) = &answer.outcome
            && output.text.len() > MAX_TEXT_BYTES
        {
            answer.outcome = Err(format!("it said more than {MAX_TEXT_BYTES} bytes"));
        }
        Self::Answer(answer)
    }
}

async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    most: u32,
) -> Result<T, Error> {
    let length = stream.read_u32().await?;
    if length > most {
        return Err(Error::TooLong { length, most });
    }
    let mut body = Vec::new();
    let taken = stream.take(length.into()).read_to_end(&mut body).await?;
    if u32::try_from(taken) != Ok(length) {
        return Err(Error::Broken(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&body).map_err(Error::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Output, Subject, ipmi::Question, smart::Disk};

    /// What becomes of bytes; they are in memory, so nothing is waited for.
    fn now<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(work)
    }

    fn request(bytes: &[u8]) -> Result<Request, Error> {
        now(read_request(&mut &bytes[..]))
    }

    fn reply(bytes: &[u8]) -> Result<Reply, Error> {
        now(read_reply(&mut &bytes[..]))
    }

    fn frame(body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap();
        [&length.to_be_bytes()[..], body].concat()
    }

    /// The wire's words stay as they are: an agent and a helper may be of different versions.
    #[test]
    fn words() {
        let words = ["smart", "ipmi", "ipmitool", "freeipmi"];
        for (asked, word) in Request::ALL.into_iter().zip(words) {
            let bytes = frame(format!("\"{word}\"").as_bytes());
            assert_eq!(encode(&asked).unwrap(), bytes);
            assert_eq!(request(&bytes).unwrap(), asked);
        }
        let answer = Reply::answer(Answer {
            of: Subject::Disk(Disk {
                device: "/dev/sda".into(),
                way: None,
            }),
            outcome: Ok(Output {
                text: "{}".into(),
                complaint: String::new(),
                status: Some(4),
            }),
        });
        let said = br#"{"answer":{"of":{"disk":{"device":"/dev/sda","way":null}},"outcome":{"Ok":{"text":"{}","complaint":"","status":4}}}}"#;
        assert_eq!(encode(&answer).unwrap(), frame(said));
        for (end, word) in [
            (Reply::Done, "\"done\""),
            (
                Reply::Failed(Failure::Absent("a".into())),
                r#"{"failed":{"absent":"a"}}"#,
            ),
            (Reply::Refused("b".into()), r#"{"refused":"b"}"#),
        ] {
            assert_eq!(encode(&end).unwrap(), frame(word.as_bytes()));
        }
    }

    /// Nothing can be said beside the word.
    #[test]
    fn a_request_carries_nothing() {
        for body in [
            r#"{"smart":"/dev/sda"}"#,
            r#"{"smart":{}}"#,
            r#"{"request":"smart"}"#,
            r#"["smart","/dev/sda"]"#,
            r#""smart /dev/sda""#,
            r#""SMART""#,
            "\"smart\" \"ipmi\"",
            "smart",
            "",
        ] {
            let refused = request(&frame(body.as_bytes()));
            assert!(matches!(refused, Err(Error::Malformed(_))), "{body}");
        }
    }

    #[test]
    fn what_is_too_long_is_not_read() {
        let mut bytes = &[0, 0, 0, 65, b'"', b's'][..];
        let refused = now(read_request(&mut bytes));
        assert!(matches!(refused, Err(Error::TooLong { length: 65, .. })));
        assert_eq!(bytes, b"\"s");
        let refused = reply(&[255; 4]);
        assert!(matches!(refused, Err(Error::TooLong { .. })));
    }

    #[test]
    fn every_answer_fits_a_frame() {
        let of = Subject::Ipmi(Question::Log);
        let answer = |text: String| {
            Reply::answer(Answer {
                of: of.clone(),
                outcome: Ok(Output {
                    text,
                    complaint: "\u{1}".repeat(1024),
                    status: None,
                }),
            })
        };
        let most = answer("\u{1}".repeat(MAX_TEXT_BYTES));
        assert_eq!(reply(&encode(&most).unwrap()).unwrap(), most);
        let Reply::Answer(Answer { outcome, .. }) = answer("a".repeat(MAX_TEXT_BYTES + 1)) else {
            panic!("no answer");
        };
        assert_eq!(
            outcome.unwrap_err(),
            "it said more than 524288 bytes".to_owned()
        );
    }

    fn outcome() -> impl Strategy<Value = Result<Output, String>> {
        let output = (".*", ".*", any::<Option<i32>>());
        let output = output.prop_map(|(text, complaint, status)| Output {
            text,
            complaint,
            status,
        });
        prop_oneof![output.prop_map(Ok), ".*".prop_map(Err)]
    }

    fn any_reply() -> impl Strategy<Value = Reply> {
        let disk = (".*", prop::option::of(".*"));
        let of = prop_oneof![
            disk.prop_map(|(device, way)| Subject::Disk(Disk { device, way })),
            Just(Subject::Ipmi(Question::Limits)),
        ];
        prop_oneof![
            (of, outcome()).prop_map(|(of, outcome)| Reply::answer(Answer { of, outcome })),
            Just(Reply::Done),
            ".*".prop_map(|reason| Reply::Failed(Failure::Absent(reason))),
            ".*".prop_map(|reason| Reply::Failed(Failure::Unreadable(reason))),
            ".*".prop_map(Reply::Refused),
        ]
    }

    proptest! {
        #[test]
        fn replies_come_back(said in any_reply()) {
            prop_assert_eq!(reply(&encode(&said).unwrap()).unwrap(), said);
        }

        /// A frame that is cut anywhere is no frame.
        #[test]
        fn a_cut_frame_is_broken(said in any_reply(), cut in any::<prop::sample::Index>()) {
            let bytes = encode(&said).unwrap();
            let cut = reply(&bytes[..cut.index(bytes.len())]);
            prop_assert!(matches!(cut, Err(Error::Broken(_))));
        }

        /// Garbage, with and without a plausible length, is nothing but an error; what is taken for a
        /// request is exactly one of the words.
        #[test]
        fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for bytes in [frame(&bytes), bytes] {
                let _ = reply(&bytes);
                if let Ok(taken) = request(&bytes) {
                    let body = std::str::from_utf8(&bytes[4..]).unwrap();
                    let word: String = serde_json::from_str(body.trim()).unwrap();
                    prop_assert!(Request::ALL.contains(&taken));
                    prop_assert_eq!(serde_json::to_value(taken).unwrap(), word);
                }
            }
        }

        /// A byte of a good request is another one: it is refused, or another of the words.
        #[test]
        fn a_flipped_byte_is_refused(
            asked in prop::sample::select(&Request::ALL[..]),
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let mut bytes = encode(&asked).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(taken) = request(&bytes) {
                prop_assert!(taken != asked, "{bytes:?}");
            }
        }
    }
}
