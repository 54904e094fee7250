//! The lab rung: the real programs on real libvirtd and QEMU, in hosts made of namespaces.
//!
//! Each test raises one lab, in which its scenarios run one after another; after each of them the
//! invariants hold. Needs root, libvirt and QEMU, else it says why it skips. For whoever looks for
//! a defect:
//!
//! - `KAPOK_LAB_SCENARIO=TEXT,TEXT` runs only scenarios whose name contains one of these texts, and
//!   those that prepare for others;
//! - `KAPOK_LAB_AS_BUILT=1` takes the programs as they are in the build folder;
//! - `RUST_LOG` (for the agent) and `KAPOK_LOG` (for the controller) go to the programs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests, which tell how long each scenario took and why they skip"
)]

// The lab, what is asked of it, and what must hold in it.
mod guests;
mod invariants;
mod play;
mod world;

// What people do, and what guests do.
mod disks;
mod equipment;
mod images;
mod life;
mod resize;

// What dies, what hangs, who meddles.
mod crashes;
mod floods;
mod kills;
mod lost;
mod meddling;
mod monitoring;
mod power;
mod stuck;
mod trust;

use std::time::Duration;

use kapok_lab::fabric::Settings;

use crate::play::{play, scenario};

/// Two hosts with guests that answer: everything that needs no broken hypervisor.
#[test]
fn a_fabric_of_real_hosts() {
    let settings = Settings {
        shutdown_grace: Duration::from_secs(8),
        heartbeat: Duration::from_millis(500),
        lost_after: Duration::from_secs(5),
        vcpu_overcommit: 16,
        ..Settings::default()
    };
    play(
        "a_fabric_of_real_hosts",
        2,
        settings,
        &[
            scenario!(always life::guests_run_on_two_nodes),
            scenario!(life::agents_have_no_privileges),
            scenario!(disks::names_and_formats_are_ours),
            scenario!(kills::a_killed_agent_changes_nothing),
            scenario!(kills::a_killed_controller_changes_nothing),
            scenario!(kills::a_killed_libvirtd_changes_nothing),
            scenario!(kills::all_three_killed_at_once_change_nothing),
            scenario!(life::stop_start_restart_remove),
            scenario!(resize::vcpus_come_live_and_memory_with_a_restart),
            scenario!(life::a_guest_that_powers_itself_off_stays_off),
            scenario!(life::a_killed_qemu_is_restarted),
            scenario!(meddling::a_foreign_domain_is_seen_and_left_alone),
            scenario!(meddling::a_copied_definition_is_not_ours),
            scenario!(meddling::a_destroyed_domain_comes_back),
            scenario!(meddling::an_undefined_domain_is_defined_again),
            scenario!(meddling::a_changed_domain_shows_its_drift),
            scenario!(disks::a_disk_in_use_elsewhere_is_not_opened),
            scenario!(disks::a_header_written_by_the_guest_means_nothing),
            scenario!(floods::a_flood_is_bounded_and_counted),
            scenario!(power::a_lost_node_is_not_a_dead_one),
            scenario!(monitoring::prometheus_reads_the_fabric_and_rings),
            scenario!(trust::an_agent_takes_commands_from_controllers_alone),
            scenario!(trust::a_node_whose_certificate_ended_comes_back),
            scenario!(crashes::an_agent_killed_during_create_finishes_it),
            scenario!(crashes::an_agent_killed_during_delete_finishes_it),
            scenario!(images::a_broken_pull_resumes),
            scenario!(images::a_base_stays_while_an_overlay_names_it),
            scenario!(equipment::a_bound_guest_is_where_it_is_said),
        ],
    );
}

/// Three hosts whose controller loses its record and every backup of it.
#[test]
fn a_fabric_that_loses_its_record() {
    let settings = Settings {
        shutdown_grace: Duration::from_secs(8),
        heartbeat: Duration::from_millis(500),
        vcpu_overcommit: 16,
        ..Settings::default()
    };
    play(
        "a_fabric_that_loses_its_record",
        3,
        settings,
        &[scenario!(lost::a_record_is_rebuilt_from_three_nodes)],
    );
}

/// One host whose libvirtd and QEMUs hang.
#[test]
fn a_host_that_hangs() {
    let settings = Settings {
        call_deadline: Duration::from_secs(3),
        shutdown_grace: Duration::from_secs(8),
        observe_every: Duration::from_secs(2),
        heartbeat: Duration::from_millis(500),
        lost_after: Duration::from_secs(5),
        vcpu_overcommit: 64,
        ..Settings::default()
    };
    play(
        "a_host_that_hangs",
        1,
        settings,
        &[
            scenario!(stuck::a_frozen_libvirtd_is_a_degraded_node),
            scenario!(stuck::one_stuck_guest_keeps_nobody_waiting),
            scenario!(stuck::thirty_stuck_guests_keep_nobody_waiting),
            scenario!(stuck::a_hung_pool_is_that_pools_trouble),
        ],
    );
}
