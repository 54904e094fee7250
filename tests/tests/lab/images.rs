//! The nodes' image caches: pulls that break, and bases that are in use.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use kapok_lab::{
    fabric::{AGENT_STATE, text},
    libvirt::POOL_FOLDER,
    wait::until,
};
use kapok_proto::agent::v1::{
    HeartbeatRequest, ListImagesRequest, RemoveImageRequest, node_service_client::NodeServiceClient,
};
use kapok_tests::real;
use kapok_types::Digest;
use tonic::{Code, Status};

use crate::world::{BLANK_IMAGE, SOON, World, tool};

/// Large enough to be caught on its way.
const LARGE_BYTES: usize = 768 << 20;

/// The file that an image becomes on a host's pool, as seen from outside.
fn base(world: &World<'_>, host: usize, digest: &Digest, format: &str) -> PathBuf {
    world.host(host).path(format!(
        "{POOL_FOLDER}/kapok-base-{}.{format}",
        digest.hex()
    ))
}

/// Bytes in an agent's spool.
fn spooled(world: &World<'_>, host: usize) -> u64 {
    let folder = world.host(host).path(format!("{AGENT_STATE}/spool"));
    let entries = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.metadata().ok())
        .map(|it| it.len())
        .sum()
}

pub(crate) fn a_broken_pull_resumes(world: &World<'_>) -> Result<()> {
    let mut content = vec![0_u8; LARGE_BYTES];
    // Different in every piece, so that a piece in a wrong place is found.
    for (number, piece) in content.chunks_exact_mut(4096).enumerate() {
        piece[..8].copy_from_slice(&u64::try_from(number)?.to_le_bytes());
    }
    let file = world.make_file("large.raw", &content)?;
    drop(content);
    world.import_raw(&file, "large")?;
    fs::remove_file(&file)?;
    world.create_named("juniper", "large", "32MiB")?;
    let (host, _) = world.place("juniper")?;
    let total = u64::try_from(LARGE_BYTES)?;
    until("a part of the image", SOON, || {
        let done = spooled(world, host);
        Ok((done > total / 20).then_some(()))
    })?;
    world.fabric.kill_controller()?;
    let kept = spooled(world, host);
    ensure!(kept < total, "the pull was over before it could be broken");
    println!(
        "          broken after {} of {} MiB",
        kept >> 20,
        total >> 20
    );
    world.fabric.start_controller()?;
    // It never begins anew: what was there stays, also when the agent dies next.
    let digest = image_digest(world, "large")?;
    let base = base(world, host, &digest, "raw");
    let mut kept = kept;
    let mut killed = false;
    until("the whole image", Duration::from_mins(1), || {
        let done = spooled(world, host);
        ensure!(
            done >= kept || base.exists(),
            "{done} bytes after {kept}: it began anew"
        );
        kept = done;
        if !killed && done > total / 4 {
            world.fabric.kill_agent(host)?;
            kept = spooled(world, host);
            world.fabric.start_agent(host)?;
            killed = true;
        }
        Ok((base.exists() && done == 0).then_some(()))
    })?;
    ensure!(killed, "the pull was over before the agent could be killed");
    world.phase_becomes("juniper", "running", Duration::from_mins(1))?;
    let sum = tool("sha256sum", &[&base.to_string_lossy()])?;
    ensure!(sum.starts_with(&digest.hex()), "{sum}");
    world.remove(&["juniper"])?;
    world.kapok().run(&["image", "rm", "large"]).map(drop)
}

fn image_digest(world: &World<'_>, name: &str) -> Result<Digest> {
    let image = world.kapok().value(&["image", "show", name])?;
    text(&image, "digest").parse().context("the image's digest")
}

pub(crate) fn a_base_stays_while_an_overlay_names_it(world: &World<'_>) -> Result<()> {
    world.create_blank("kauri", &["--wait"])?;
    let (host, domain) = world.place("kauri")?;
    let digest = image_digest(world, BLANK_IMAGE)?;
    let base = base(world, host, &digest, "raw");
    ensure!(base.exists());
    // Even without a domain that names it: the overlay on disk counts.
    let copy = world
        .host(host)
        .path(format!("{POOL_FOLDER}/left-over.qcow2"));
    let overlay = world.host(host).path(crate::disks::root_disk(&domain));
    fs::copy(&overlay, &copy)?;

    let refused = remove_image(world, host, &digest)?;
    ensure!(refused.is_err_and(|status| status.code() == Code::FailedPrecondition));
    world.remove(&["kauri"])?;
    let refused = remove_image(world, host, &digest)?;
    ensure!(refused.is_err_and(|status| status.code() == Code::FailedPrecondition));
    ensure!(base.exists());
    fs::remove_file(&copy)?;
    let removed = remove_image(world, host, &digest)?;
    ensure!(removed.is_ok(), "{removed:?}");
    ensure!(!base.exists());
    // It comes back when it is needed.
    world.create_blank("kauri", &["--wait"])?;
    world.phase_becomes("kauri", "running", SOON)?;
    world.remove(&["kauri"])
}

/// Asks an agent to remove an image.
fn remove_image(world: &World<'_>, host: usize, digest: &Digest) -> Result<Result<(), Status>> {
    let door = world.fabric.agent_door(host)?;
    let node = text(&world.node(host)?, "id").parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let trust = world.fabric.controller_trust();
        let address = door.local().to_string();
        let mut agent = NodeServiceClient::new(real::agent(&trust, &address, node)?);
        let mut beat = agent
            .heartbeat(HeartbeatRequest { interval_ms: 1000 })
            .await?
            .into_inner();
        let epoch = beat.message().await?.context("no life sign")?.epoch;
        let images = agent
            .list_images(ListImagesRequest {})
            .await?
            .into_inner()
            .images;
        let listed = images
            .iter()
            .any(|image| image.digest == digest.to_string());
        ensure!(listed, "the agent doesn't list {digest}: {images:?}");
        let digest = digest.to_string();
        Ok(agent
            .remove_image(RemoveImageRequest { digest, epoch })
            .await
            .map(drop))
    })
}
