use proptest::{prelude::*, sample::Index};

use super::*;
use crate::{Chain, lines as text};

/// A whole log of `count` entries as they stand.
fn log(count: u64) -> Vec<Entry> {
    let payload = |n| format!("{{\"version\":1,\"n\":{n},\"text\":\"entry {n}\"}}").into();
    let batch = Chain::default().seal((1..=count).map(payload).collect());
    batch.into_iter().collect()
}

/// Computes the chain anew from `index` on.
fn recompute(entries: &mut [Entry], index: usize) {
    for at in index..entries.len() {
        let prev = at.checked_sub(1).map_or(Hash::ZERO, |at| entries[at].hash);
        entries[at].prev = prev;
        entries[at].hash = Hash::link(prev, entries[at].seq, &entries[at].payload);
    }
}

fn head(entries: &[Entry], seq: usize) -> Head {
    let Entry { seq, hash, .. } = entries[seq - 1];
    Head { seq, hash }
}

fn kept(head: Head) -> Expected {
    Expected {
        head,
        by: "node-3".to_owned(),
    }
}

/// Checks entries as they stand, and the same as an exported file: both find the same.
fn check(entries: &[Entry], expected: Vec<Expected>) -> Vec<(u64, &'static str)> {
    let mut verifier = Verifier::new(expected.clone());
    for entry in entries {
        verifier.entry(entry);
    }
    let report = verifier.finish();
    let file: String = entries
        .iter()
        .map(|entry| text::write(entry).unwrap())
        .collect();
    let read = lines(file.as_bytes(), expected).unwrap();
    assert_eq!(read, report);
    let named = |fault: &Fault| (fault.seq.get(), fault.kind.as_str());
    report.faults.iter().map(named).collect()
}

fn renamed(entry: &mut Entry) {
    entry.payload = "{\"version\":1,\"forged\":true}".into();
}

#[test]
fn a_whole_log_is_sound() {
    let entries = log(50);
    let expected = [1, 20, 50].map(|seq| kept(head(&entries, seq)));
    assert_eq!(check(&entries, expected.to_vec()), []);
    // A part of it as well: what stands before is not known.
    assert_eq!(check(&entries[10..30], vec![kept(head(&entries, 20))]), []);
    let report = lines(&b""[..], []).unwrap();
    assert_eq!((report.is_sound(), report.entries), (true, 0));
}

#[test]
fn an_edit_is_located() {
    let mut entries = log(50);
    renamed(&mut entries[19]);
    assert_eq!(check(&entries, vec![]), [(20, "edited")]);
    // With its own hash computed anew, the entry behind it tells.
    entries[19].hash = Hash::link(entries[19].prev, Seq(20), &entries[19].payload);
    assert_eq!(check(&entries, vec![]), [(20, "edited")]);
    // Even if that is made to follow it.
    entries[20].prev = entries[19].hash;
    assert_eq!(check(&entries, vec![]), [(21, "edited")]);
}

#[test]
fn two_edits_are_two_faults() {
    let mut entries = log(50);
    renamed(&mut entries[9]);
    entries[30].hash = Hash([7; 32]);
    assert_eq!(check(&entries, vec![]), [(10, "edited"), (31, "edited")]);
    let mut entries = log(500);
    entries.iter_mut().for_each(renamed);
    assert_eq!(check(&entries, vec![]).len(), MAX_FAULTS);
}

#[test]
fn a_reorder_is_located() {
    // Lines that changed places.
    let mut entries = log(50);
    entries.swap(19, 20);
    assert_eq!(check(&entries, vec![]), [(20, "reordered")]);
    // With their numbers and predecessors mended, so that only the hashes tell.
    for (at, entry) in entries.iter_mut().enumerate().skip(19).take(2) {
        entry.seq = Seq(u64::try_from(at).unwrap() + 1);
    }
    assert_eq!(
        check(&entries, vec![]),
        [(20, "reordered"), (21, "reordered")]
    );
    // One that stands twice.
    let mut entries = log(50);
    entries.insert(30, entries[10].clone());
    assert_eq!(check(&entries, vec![]), [(11, "reordered")]);
}

#[test]
fn a_cut_is_located() {
    let entries = log(50);
    let without: Vec<Entry> = [&entries[..9], &entries[14..]].concat();
    assert_eq!(check(&without, vec![]), [(10, "cut")]);
    // A cut tail is whole in itself; a head that is kept elsewhere tells.
    assert_eq!(check(&entries[..40], vec![]), []);
    let expected = vec![kept(head(&entries, 30)), kept(head(&entries, 50))];
    assert_eq!(check(&entries[..40], expected), [(41, "cut")]);
}

#[test]
fn a_recomputed_chain_is_located() {
    let entries = log(60);
    let expected: Vec<_> = [10, 20, 30, 40].map(|seq| kept(head(&entries, seq))).into();
    for from in [21, 25, 30] {
        let mut forged = entries.clone();
        renamed(&mut forged[from - 1]);
        recompute(&mut forged, from - 1);
        assert_eq!(check(&forged, vec![]), [], "nothing inside it tells");
        assert_eq!(check(&forged, expected.clone()), [(21, "recomputed")]);
    }
    let mut forged = entries;
    renamed(&mut forged[0]);
    recompute(&mut forged, 0);
    assert_eq!(check(&forged, expected), [(1, "recomputed")]);
}

#[test]
fn a_log_does_not_begin_behind_something() {
    let mut entries = log(3);
    entries[0].prev = Hash([1; 32]);
    entries[0].hash = Hash::link(entries[0].prev, Seq(1), &entries[0].payload);
    assert_eq!(check(&entries, vec![]), [(1, "edited"),]);
}

#[test]
fn the_message_says_who_and_where() {
    let entries = log(30);
    let mut verifier = Verifier::new([kept(head(&entries, 30))]);
    for entry in &entries[..20] {
        verifier.entry(entry);
    }
    let report = verifier.finish();
    assert_eq!(
        report.faults[0].message,
        "the log ends before it, and node-3 keeps the head 30"
    );
    assert_eq!(
        (report.entries, report.last.seq, report.heads),
        (20, Seq(20), 1)
    );
}

#[test]
fn an_unfinished_file_is_no_whole_one() {
    let file: String = log(5)
        .iter()
        .map(|entry| text::write(entry).unwrap())
        .collect();
    let report = lines(&file.as_bytes()[..file.len() - 1], []).unwrap();
    assert_eq!(report.faults[0].kind, FaultKind::Unreadable);
    assert_eq!(report.faults[0].seq, Seq(5));
}

proptest! {
    /// A single changed byte of an exported file is found, and at its line or the one beside it.
    #[test]
    fn a_changed_byte_is_located(at in any::<Index>(), by in 1_u8..=255, skip in 0_usize..20) {
        let entries = log(60);
        let file: String = entries[skip..].iter().map(|entry| text::write(entry).unwrap()).collect();
        let mut bytes = file.into_bytes();
        let at = at.index(bytes.len());
        let line = skip + bytes[..at].split(|byte| *byte == b'\n').count();
        bytes[at] ^= by;
        let report = lines(&bytes[..], []).unwrap();
        prop_assert!(!report.is_sound());
        for fault in &report.faults {
            let distance = fault.seq.get().abs_diff(u64::try_from(line).unwrap());
            prop_assert!(distance <= 1, "line {line}, and {fault:?} of {:?}", report.faults);
        }
    }

    /// Noise instead of a file never panics and is never sound.
    #[test]
    fn noise_is_not_sound(noise in proptest::collection::vec(any::<u8>(), 1..400)) {
        prop_assert!(!lines(&noise[..], []).unwrap().is_sound());
    }
}
