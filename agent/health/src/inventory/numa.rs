//! NUMA cells: memory, threads, distances, huge pages.

use super::{HugePages, NumaCell, Reader};

const NODES: &str = "/sys/devices/system/node";
const TOPIC: &str = "numa_cells";

pub(super) fn read(reader: &mut Reader<'_>) -> Vec<NumaCell> {
    let names = reader.list(TOPIC, NODES);
    let numbers = names
        .iter()
        .filter_map(|name| name.strip_prefix("node")?.parse::<u32>().ok());
    let mut cells: Vec<NumaCell> = numbers.map(|cell| one(reader, cell)).collect();
    cells.sort_by_key(|cell| cell.cell);
    cells
}

fn one(reader: &mut Reader<'_>, cell: u32) -> NumaCell {
    let node = format!("{NODES}/node{cell}");
    let memory = reader.lines(TOPIC, &format!("{node}/meminfo"));
    let total_kib = memory.lines().find_map(|line| {
        let (_, value) = line.split_once("MemTotal:")?;
        value.split_whitespace().next()?.parse::<u64>().ok()
    });
    let distances = reader.text(TOPIC, &format!("{node}/distance"));
    let folder = format!("{node}/hugepages");
    let sizes = reader.list(TOPIC, &folder);
    let mut huge_pages: Vec<HugePages> = sizes
        .iter()
        .filter_map(|name| {
            let size_kib = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let mut count = |file: &str| {
                reader
                    .number(TOPIC, &format!("{folder}/{name}/{file}"))
                    .unwrap_or(0)
            };
            Some(HugePages {
                size_kib,
                total: count("nr_hugepages"),
                free: count("free_hugepages"),
            })
        })
        .collect();
    huge_pages.sort_by_key(|pages| pages.size_kib);
    NumaCell {
        cell,
        memory_mib: total_kib.unwrap_or(0) / 1024,
        cpus: reader.text(TOPIC, &format!("{node}/cpulist")),
        distances: distances
            .split_whitespace()
            .filter_map(|it| it.parse().ok())
            .collect(),
        huge_pages,
    }
}
