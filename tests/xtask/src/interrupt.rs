//! Ctrl-C and SIGTERM: the first asks for an end in order, the second ends at once.
//!
//! Even then nothing stays, because a lab ends with its raiser.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Knows whether somebody asked for an end.
#[derive(Debug)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
    arrival: Receiver<()>,
}

impl Interrupt {
    /// Begins to listen.
    pub(crate) fn listen() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&asked);
        let (arrived, arrival) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("can't listen for signals")?;
        // Lives as long as the program.
        thread::spawn(move || runtime.block_on(wait(&seen, &arrived)));
        Ok(Self { asked, arrival })
    }

    /// Waits for it.
    pub(crate) fn wait(&self) {
        while !self.is_asked() {
            self.pause(Duration::from_secs(1));
        }
    }

    /// Lets time pass, less if it comes.
    pub(crate) fn pause(&self, time: Duration) {
        match self.arrival.recv_timeout(time) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            // The listener could not start; Ctrl-C then ends the program by itself.
            Err(RecvTimeoutError::Disconnected) => kapok_lab::wait::pause(time),
        }
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Fails if somebody asked for an end: for use between steps.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_asked() {
            bail!("interrupted");
        }
        Ok(())
    }
}

async fn wait(asked: &AtomicBool, arrived: &Sender<()>) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return;
    };
    loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if asked.swap(true, Ordering::SeqCst) {
            eprintln!("\nending at once");
            process::exit(130);
        }
        eprintln!("\nending; once more ends at once");
        let _nobody_waits = arrived.send(());
    }
}
