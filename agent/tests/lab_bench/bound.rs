//! Threads and huge pages of a real host, given to one guest: what libvirt and the kernel say of
//! where it is. Nothing keeps a lab's devices apart (there is no IOMMU), so none is shown.

use std::fs;

use kapok_agent::{
    config::{Offering, VirtChoice},
    driver::{Run, contract},
};
use kapok_lab::kernel::{self, HugePages};
use kapok_types::{
    MemoryMib,
    equipment::{CellShare, PageSize},
};

use crate::lab_bench::{Bench, bench_offering};

/// The guest's memory, and the pages for it.
const MEMORY: MemoryMib = MemoryMib(64);
const PAGES: u64 = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_guest_is_where_it_is_said() {
    let test = "a_bound_guest_is_where_it_is_said";
    let Some((own, shared)) = kernel::last_thread().unwrap() else {
        println!("SKIP {test}: one thread has to stay shared, and all must be online");
        return;
    };
    let offering = Offering {
        dedicated: own.to_string().parse().unwrap(),
        networks: ["kapok".parse().unwrap(), "absent".parse().unwrap()].into(),
        ..Offering::default()
    };
    let Some(bench) = bench_offering(test, VirtChoice::Qemu, offering).await else {
        return;
    };
    // Before the node is asked what it has.
    let pages = HugePages::reserve(PAGES).unwrap();
    let facts = bench.driver().compute.facts().await.unwrap();
    assert!(facts.equipment.cpu_features.len() > 20, "{facts:?}");
    assert_eq!(facts.equipment.networks, ["kapok".parse().unwrap()].into());
    contract::equipment(&bench.subject).await;
    match &pages {
        Some(_) => bound(&bench, own, &shared).await,
        None => println!("the kernel has no huge pages to give: only threads were shown"),
    }
    drop(pages);
    bench.end();
}

async fn bound(bench: &Bench, own: u16, shared: &str) {
    let (compute, storage) = (&bench.driver().compute, &bench.driver().storage);
    let mut record = bench.subject.record(9).await;
    let intent = &mut record.intent;
    intent.spec.memory = MEMORY;
    let needs = &mut intent.spec.needs;
    (needs.dedicated_cpus, needs.huge_pages) = (true, Some(PageSize::Mib2));
    needs.cpu_features = ["sse4.2".parse().unwrap()].into();
    intent.assignment.huge_pages = Some(PageSize::Mib2);
    intent.assignment.cells = vec![CellShare {
        cell: 0,
        vcpus: intent.spec.vcpus,
        threads: vec![own],
        memory: MEMORY,
    }];
    record.starting = true;
    let id = record.intent.incarnation;
    compute.define(&record).await.unwrap();
    storage.create_root(id, &bench.root().await).await.unwrap();
    compute.start(id).await.unwrap();
    let seen = compute.observe(id).await.unwrap().unwrap();
    assert_eq!((seen.run, seen.drift), (Run::On, Vec::new()));

    let domain = format!("kapok-{id}");
    let document = bench.host().virsh(&["dumpxml", &domain]).unwrap();
    for words in [
        format!("<vcpupin vcpu='0' cpuset='{own}'/>"),
        format!("<emulatorpin cpuset='{shared}'/>"),
        "<page size='2048' unit='KiB'/>".into(),
        "<memnode cellid='0' mode='strict' nodeset='0'/>".into(),
    ] {
        assert!(document.contains(&words), "no {words} in {document}");
    }
    let pids = bench.host().qemu_pids().unwrap();
    let (_, pid) = pids.iter().find(|(name, _)| *name == domain).unwrap();
    let threads = kernel::threads_of(*pid).unwrap();
    // QEMU's "TC" fetched the pages from all over the cell before the guest began, and rests.
    for (name, allowed) in threads.iter().filter(|(name, _)| !name.starts_with("TC ")) {
        let wanted = if name.starts_with("CPU ") {
            own.to_string()
        } else {
            shared.into()
        };
        assert_eq!(*allowed, wanted, "{name} among {threads:?}");
    }
    let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap();
    let guest = maps.lines().find(|line| line.contains(" huge "));
    let guest = guest.expect("memory in huge pages");
    assert!(guest.contains(" bind:0 "), "{guest}");
    assert!(guest.contains(&format!(" N0={PAGES} ")), "{guest}");

    // Who moves it with virsh is told of.
    let moved = ["vcpupin", &domain, "0", "0", "--live"];
    bench.host().virsh(&moved).unwrap();
    let seen = compute.observe(id).await.unwrap().unwrap();
    let told =
        format!("the running domain has vCPU 0 on the threads 0 instead of the threads {own}");
    assert_eq!(seen.drift, [told]);
    bench.gone(id).await;
}
