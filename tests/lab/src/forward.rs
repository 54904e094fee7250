//! A door into the lab: a port of this machine's loopback that leads to an address inside.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

use crate::machine::Machine;

/// An open door. Dropping it closes it for new connections.
#[derive(Debug)]
pub struct Forward {
    local: SocketAddr,
    closed: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Forward {
    /// Leads connections to `127.0.0.1:port` (0: any free port) on to `to`, as seen from
    /// inside `machine`.
    ///
    /// # Errors
    ///
    /// When the port is taken.
    pub fn open(machine: Arc<Machine>, port: u16, to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))
            .with_context(|| format!("can't listen on 127.0.0.1:{port}"))?;
        let local = listener.local_addr()?;
        let closed = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&closed);
        let handle = thread::spawn(move || {
            while let Ok((outside, _)) = listener.accept() {
                if seen.load(Ordering::SeqCst) {
                    return;
                }
                // Nobody inside: the caller sees its connection closed, as it would there.
                if let Ok(inside) = machine.connect(to) {
                    let _ends_with_the_connection = carry(outside, inside);
                }
            }
        });
        Ok(Self {
            local,
            closed,
            listener: Some(handle),
        })
    }

    /// The address outside.
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        // The listener waits in accept: one last connection makes it look at the flag.
        let _woken = TcpStream::connect(self.local);
        if let Some(handle) = self.listener.take() {
            let _ended = handle.join();
        }
    }
}

fn carry(outside: TcpStream, inside: TcpStream) -> io::Result<()> {
    outside.set_nodelay(true)?;
    inside.set_nodelay(true)?;
    for (mut from, mut to) in [
        (outside.try_clone()?, inside.try_clone()?),
        (inside, outside),
    ] {
        thread::spawn(move || {
            let _copied = io::copy(&mut from, &mut to);
            let _closed = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
