//! `kapok instance console`: the guest's serial console on this terminal, or on these pipes.

use std::{io, time::Duration};

use bytes::Bytes;
use kapok_proto::{
    common::v1::ConsoleData,
    fabric::v1::{
        CreateConsoleTicketRequest, OpenConsoleRequest,
        instance_service_client::InstanceServiceClient as Instances,
    },
};
use tokio::{
    io::{AsyncReadExt as _, stdin},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::instance::LOOK;
use crate::{
    client::{Client, call_failed},
    error::{Doing, Error},
    human::plain,
    output::Out,
    terminal::Raw,
};

/// Ctrl-], as telnet and virsh have it.
const LEAVE: u8 = 0x1d;
/// Input that is sent in one message at most, in bytes.
const INPUT_BYTES: usize = 4096;
/// How long the answer to opening may take unless `--timeout` says otherwise.
const OPEN: Duration = Duration::from_secs(30);

/// Why the session ended.
enum End {
    /// The guest's side closed it.
    Closed,
    /// The person left.
    Left,
    /// Nobody reads the output any more.
    Unread,
    /// A signal asked this program to end.
    Signal,
    /// `--timeout` is over.
    Time,
}

/// Does it.
pub(super) async fn run(
    client: &Client,
    out: &mut Out,
    instance: String,
    force: bool,
) -> Result<(), Error> {
    let doing = Doing::new(format!("use the console of {instance}"), LOOK);
    let request = CreateConsoleTicketRequest {
        instance: instance.clone(),
    };
    let answer = client
        .read(&doing, async |channel| {
            Instances::new(channel)
                .create_console_ticket(request.clone())
                .await
        })
        .await?;
    let (input, messages) = mpsc::channel(16);
    let hello = OpenConsoleRequest {
        ticket: answer.ticket,
        force,
        input: None,
    };
    // There is room: nothing was sent before.
    let _ = input.try_send(hello);
    let mut instances = Instances::new(client.channel());
    let open = instances.open_console(ReceiverStream::new(messages));
    let after = client.timeout().unwrap_or(OPEN);
    let output = match timeout(after, open).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return Err(call_failed(&doing, status, None)),
        Err(_) => {
            return Err(Error::TimedOut {
                doing,
                after,
                change: None,
            });
        }
    };
    let raw = Raw::enter().map_err(|error| Error::io("can't use this terminal", &error))?;
    let at_terminal = raw.is_some();
    if at_terminal {
        out.remark(&format!(
            "connected to {}; Ctrl-] leaves\r",
            plain(&instance)
        ));
    }
    let ended = session(client, out, &doing, input, output, at_terminal).await;
    drop(raw);
    if at_terminal {
        out.remark("");
    }
    match ended? {
        End::Closed => {
            out.remark("the console was closed");
            Ok(())
        }
        End::Left | End::Unread => Ok(()),
        End::Signal => Err(Error::Declined),
        End::Time => Err(Error::TimedOut {
            doing,
            after: client.timeout().unwrap_or_default(),
            change: None,
        }),
    }
}

async fn session(
    client: &Client,
    out: &mut Out,
    doing: &Doing,
    input: mpsc::Sender<OpenConsoleRequest>,
    mut output: Streaming<kapok_proto::fabric::v1::OpenConsoleResponse>,
    at_terminal: bool,
) -> Result<End, Error> {
    let failed = |error: io::Error| Error::io("can't watch for signals", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let time = async {
        match client.timeout() {
            Some(after) => sleep(after).await,
            None => std::future::pending().await,
        }
    };
    let keys = send_input(input, at_terminal);
    tokio::pin!(time, keys);
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => return Ok(End::Signal),
            _ = hang_up.recv() => return Ok(End::Signal),
            _ = interrupt.recv() => return Ok(End::Signal),
            () = &mut time => return Ok(End::Time),
            left = &mut keys => {
                left.map_err(|error| Error::io("can't read the input", &error))?;
                return Ok(End::Left);
            }
            piece = output.message() => match piece {
                Ok(Some(piece)) => {
                    if piece.dropped_bytes > 0 {
                        out.remark(&format!("\r\n[{} bytes were lost]\r", piece.dropped_bytes));
                    }
                    out.raw(&piece.output.unwrap_or_default().data)?;
                    if out.is_closed() {
                        return Ok(End::Unread);
                    }
                }
                Ok(None) => return Ok(End::Closed),
                Err(status) => return Err(call_failed(doing, status, None)),
            },
        }
    }
}

/// Sends what is typed or piped in until the person leaves. The end of piped input is no end:
/// what the guest answers is still to come.
async fn send_input(input: mpsc::Sender<OpenConsoleRequest>, at_terminal: bool) -> io::Result<()> {
    let mut stdin = stdin();
    let mut buffer = [0_u8; INPUT_BYTES];
    loop {
        let length = stdin.read(&mut buffer).await?;
        if length == 0 {
            if at_terminal {
                return Ok(());
            }
            // Keeps the stream open: its end would close the console.
            std::future::pending::<()>().await;
        }
        let typed = &buffer[..length];
        let leaves = at_terminal
            .then(|| typed.iter().position(|&key| key == LEAVE))
            .flatten();
        let keys = &typed[..leaves.unwrap_or(length)];
        let request = OpenConsoleRequest {
            input: Some(ConsoleData {
                data: Bytes::copy_from_slice(keys),
            }),
            ..OpenConsoleRequest::default()
        };
        // The output's end says why nobody takes the input any more.
        if (!keys.is_empty() && input.send(request).await.is_err()) && leaves.is_none() {
            std::future::pending::<()>().await;
        }
        if leaves.is_some() {
            return Ok(());
        }
    }
}
