//! A fabric whose certificates change under load: `soak-rotation SECONDS LIFE_SECONDS`. The
//! programs were built before.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::time::Duration;

use anyhow::Result;
use kapok_tests::rotation;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let time: u64 = arguments.next().map_or(Ok(600), |text| text.parse())?;
    let life: u64 = arguments.next().map_or(Ok(60), |text| text.parse())?;
    let (time, life) = (Duration::from_secs(time), Duration::from_secs(life));
    println!("{}", rotation::run(time, life).await?);
    Ok(())
}
