//! The console's two streams, joined to the driver's two channels.

use kapok_proto::{agent::v1 as wire, common::v1 as common, convert};
use kapok_types::{IncarnationId, Violation};
use tonic::{Status, Streaming};

use super::{Answers, Services, status};

/// Largest piece of input, in bytes.
const MAX_INPUT_BYTES: usize = 64 * 1024;

impl Services {
    pub(super) async fn open_console(
        &self,
        mut requests: Streaming<wire::ConsoleRequest>,
    ) -> Result<Answers<wire::ConsoleResponse>, Status> {
        let missing = || status::bad(&[Violation::new("incarnation_id", "is missing")]);
        let first = requests.message().await?.ok_or_else(missing)?;
        let incarnation: IncarnationId = convert::id(&first.incarnation_id, "incarnation_id")
            .map_err(|wrong| status::bad(&[wrong]))?;
        if self.hub.status(incarnation).is_none() {
            return Err(status::no_such_incarnation(incarnation));
        }
        let mut console = self
            .driver
            .console
            .open(incarnation, first.force)
            .await
            .map_err(|error| status::driver(&error))?;
        let early = first.input;
        let stream = async_stream::stream! {
            if let Some(input) = early
                && let Err(refused) = forward(&console.input, input).await
            {
                yield Err(refused);
                return;
            }
            let mut listening = true;
            loop {
                tokio::select! {
                    biased;
                    output = console.output.recv() => match output {
                        Some(output) => yield Ok(wire::ConsoleResponse {
                            output: Some(common::ConsoleData { data: output.data }),
                            dropped_bytes: output.dropped,
                        }),
                        None => return,
                    },
                    request = requests.message(), if listening => match request {
                        Ok(Some(wire::ConsoleRequest { input: Some(input), .. })) => {
                            if let Err(refused) = forward(&console.input, input).await {
                                yield Err(refused);
                                return;
                            }
                        }
                        Ok(Some(_)) => {}
                        // The caller has no more input but may go on reading.
                        Ok(None) => listening = false,
                        Err(_) => return,
                    },
                }
            }
        };
        Ok(self.until_stop(stream))
    }
}

async fn forward(
    to: &tokio::sync::mpsc::Sender<bytes::Bytes>,
    input: common::ConsoleData,
) -> Result<(), Status> {
    if input.data.len() > MAX_INPUT_BYTES {
        let reason = format!("has {} bytes; at most {MAX_INPUT_BYTES}", input.data.len());
        return Err(status::bad(&[Violation::new("input.data", reason)]));
    }
    // A closed console ends the output as well, and that ends the stream.
    let _ = to.send(input.data).await;
    Ok(())
}
