//! The report as a table: one line for each case, the engines side by side.

use std::fmt::Write as _;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use crate::blocks;
use crate::files;
use crate::local;
use crate::messages::Engine;
use crate::remote;
use crate::report::{Report, Row};

const HEADINGS: [&str; 10] = [
    "case",
    "size",
    "connector p50",
    "p99",
    "max",
    "GB/s",
    "nixl-sys p50",
    "p99",
    "GB/s",
    "time ratio",
];

const LOCAL_HEADINGS: [&str; 11] = [
    "case",
    "memories",
    "size",
    "path",
    "executor p50",
    "p99",
    "GB/s",
    "copies p50",
    "batch p50",
    "one copy p50",
    "time ratio",
];

/// For the terminal.
pub(crate) fn terminal(report: &Report) -> String {
    let tables = [
        aligned(&HEADINGS, lines(report)),
        aligned(&remote::HEADINGS, remote::lines(report)),
        aligned(&LOCAL_HEADINGS, local_lines(report)),
        aligned(&blocks::HEADINGS, blocks::lines(report)),
        aligned(&files::HEADINGS, files::lines(report)),
    ];
    let tables: Vec<_> =
        tables.iter().filter(|table| table.row_count() > 0).map(ToString::to_string).collect();
    let mut text = tables.join("\n");
    for refusal in remote::refusals(report) {
        let _ = write!(text, "\n{refusal}");
    }
    for skipped in &report.skipped {
        let _ = write!(text, "\n{skipped}");
    }
    for gauge in &report.gauges {
        let _ = write!(text, "\n{}: {} {}", gauge.name, gauge.value, gauge.unit);
    }
    text
}

/// For `report.md`.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = String::new();
    let (host, remote, local) = (lines(report), remote::lines(report), local_lines(report));
    if !host.is_empty() {
        text.push_str("# Transfers between two processes of one machine, over NIXL\n\n");
        push_table(&mut text, &HEADINGS, host);
        text.push_str(
            "\nThe time ratio is the connector's median over that of plain nixl-sys, measured in turns on the same memory. \
             GB/s are 10^9 bytes a second at the median. The data of every iteration of a transfer was checked.\n\n",
        );
    }
    if !remote.is_empty() {
        text.push_str("# Transfers between memories of two processes\n\n");
        push_table(&mut text, &remote::HEADINGS, remote);
        text.push_str(
            "\nFrom begin to awaited completion, in turns on the same memory: `nixl-connector` takes the path that its \
             executor chooses, or the one behind the slash; `nixl-sys` is plain NIXL (create, post, poll, with a \
             notification), and the last column how many times the rate of the driver's own copy was reached: between GPUs, or with \
             pinned memory for the host's. Every destination was poisoned; the data of all transfers up to 64 MiB was checked, of larger \
             ones the first, the middle and the last.\n\n",
        );
        push_list(&mut text, remote::verdicts(report));
        push_list(&mut text, remote::refusals(report));
        push_list(&mut text, report.skipped.clone());
    }
    if !local.is_empty() {
        text.push_str("# Copies of blocks between memories of one process\n\n");
        push_table(&mut text, &LOCAL_HEADINGS, local);
        text.push_str(
            "\nFrom submit to awaited completion. The plain calls, medians, were measured in turns with the executor: \
             `cuMemcpyAsync` for each chunk, one `cuMemcpyBatchAsync`, one copy of as many bytes in one piece (of \
             pageable memory where that takes part), each followed by `cuStreamSynchronize`; between host memories, \
             `memcpy` on one thread. Every destination was poisoned before each copy; the data of all copies up to \
             64 MiB was checked, of larger ones the first, the middle and the last.\n\n",
        );
        push_list(&mut text, local::verdicts(report));
    }
    let blocks = blocks::lines(report);
    if !blocks.is_empty() {
        text.push_str("# Blocks of another process, by tickets\n\n");
        push_table(&mut text, &blocks::HEADINGS, blocks);
        text.push_str(
            "\nIn turns on the same memory. `ticket`: through the engine, the word of the grant too, as between hosts; \
             `ticket-mapped`: of memory that is mapped. `one-shot`: `begin_read` of an offer of the same chunks, by the same \
             path, decoded before. `nixl-sys`: `make_xfer_req` of prepared lists, post and poll, no notification; of a page, a \
             second read of 32 bytes after it. `memcpy`: a loop over the same chunks inside the reader's process, on as many \
             threads as the executor copies with. Every destination was poisoned before and checked after each read.\n\n",
        );
        push_list(&mut text, blocks::verdicts(report));
    }
    let files = files::lines(report);
    if !files.is_empty() {
        text.push_str("# Blocks between files and memory\n\n");
        push_table(&mut text, &files::HEADINGS, files);
        text.push_str(
            "\nIn turns on the same file and memory, in calls of at most 512 KiB. `executor`: from the begin to the awaited \
             completion; `executor-threads`: where io_uring is forbidden; `threads`: `preadv` and `pwritev` on so many threads; \
             `io_uring`: one ring and so many calls in flight; `nixl-posix`: nixl-sys, polled each 200 us. CPU is that of all \
             threads of the process, the median. Data of the first, the middle and the last round was checked.\n\n",
        );
        push_list(&mut text, files::verdicts(report));
    }
    if !report.gauges.is_empty() {
        text.push_str("\n| figure | value | unit |\n| :-- | --: | :-- |\n");
        for gauge in &report.gauges {
            let _ = writeln!(text, "| {} | {} | {} |", gauge.name, gauge.value, gauge.unit);
        }
    }
    text.push('\n');
    for (name, value) in report.environment.facts() {
        let _ = writeln!(text, "- {name}: {value}");
    }
    text
}

fn push_list(text: &mut String, lines: Vec<String>) {
    for line in &lines {
        let _ = writeln!(text, "- {line}");
    }
    if !lines.is_empty() {
        text.push('\n');
    }
}

fn push_table(text: &mut String, headings: &[&str], lines: Vec<Vec<String>>) {
    let mut line = |cells: &[String]| {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    line(&headings.iter().map(ToString::to_string).collect::<Vec<_>>());
    let rule = |heading: &&str| if *heading == "case" { ":--" } else { "--:" }.to_owned();
    line(&headings.iter().map(rule).collect::<Vec<_>>());
    for cells in lines {
        line(&cells);
    }
}

/// A table with a left-aligned first column and right-aligned others.
pub(crate) fn aligned(headings: &[&str], lines: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(headings);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.add_rows(lines);
    table
}

fn lines(report: &Report) -> Vec<Vec<String>> {
    /// The name of the suite.
    const HOST: &str = "host";
    let rows: Vec<_> = report.rows.iter().filter(|row| row.suite == HOST).collect();
    let plain = |row: &Row| row.engine == Engine::NixlSys.name();
    let beside = |row: &Row| rows.iter().copied().find(|r| plain(r) && r.is_beside(row));
    rows.iter().filter(|row| !plain(row)).map(|row| cells(row, beside(row))).collect()
}

/// A line for each case and pair of memories of the suite `local`.
fn local_lines(report: &Report) -> Vec<Vec<String>> {
    let rows: Vec<_> = report.rows.iter().filter(|row| row.suite == local::SUITE).collect();
    let ours = |row: &&&Row| row.engine == local::Engine::Executor.name();
    rows.iter().filter(ours).map(|row| local_cells(row, &rows)).collect()
}

fn local_cells(ours: &Row, rows: &[&Row]) -> Vec<String> {
    use local::Engine::{CudaBatch, CudaCopies, CudaOneCopy, CudaPageable, Memcpy};
    let place = |row: &Row| (row.case.clone(), row.local.clone(), row.remote.clone());
    let by = |name: &str| {
        let same = |row: &&&Row| row.engine == name && place(row) == place(ours);
        rows.iter().find(same).map(|row| row.p50_ns)
    };
    let median = |engine: local::Engine| by(engine.name());
    let whole = median(CudaOneCopy).or(median(CudaPageable)).or(median(Memcpy));
    // Pairs with a disk are beside threads.
    let whole = whole.or_else(|| by(files::BASELINE));
    let cell = |median: Option<u64>| median.map_or_else(String::new, duration);
    let ratio = whole.and_then(|whole| ratio(ours.p50_ns, whole));
    vec![
        ours.case.clone(),
        ours.memories(),
        shape(ours),
        ours.path.clone(),
        duration(ours.p50_ns),
        duration(ours.p99_ns),
        ours.gbps.map_or_else(String::new, |gbps| format!("{gbps:.2}")),
        cell(median(CudaCopies)),
        cell(median(CudaBatch)),
        cell(whole),
        ratio.unwrap_or_default(),
    ]
}

/// `None` where the other took no time that could be measured.
pub(crate) fn ratio(ours: u64, other: u64) -> Option<String> {
    (other > 0).then(|| format!("{:.2}", ours as f64 / other as f64))
}

fn cells(ours: &Row, plain: Option<&Row>) -> Vec<String> {
    let throughput = |row: &Row| row.gbps.map_or_else(String::new, |gbps| format!("{gbps:.2}"));
    let mut cells = vec![
        ours.case.clone(),
        shape(ours),
        duration(ours.p50_ns),
        duration(ours.p99_ns),
        duration(ours.max_ns),
        throughput(ours),
    ];
    match plain {
        Some(plain) => cells.extend([
            duration(plain.p50_ns),
            duration(plain.p99_ns),
            throughput(plain),
            ratio(ours.p50_ns, plain.p50_ns).unwrap_or_default(),
        ]),
        None => cells.extend(std::iter::repeat_n(String::new(), 4)),
    }
    cells
}

/// The size of what a row measured.
pub(crate) fn shape(row: &Row) -> String {
    match (row.bytes, row.batch) {
        (0, _) => String::new(),
        (bytes, 1) => size(bytes),
        (bytes, batch) => format!("{batch}x{}", size(bytes)),
    }
}

/// Bytes in the largest unit that divides them.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 20 && b.is_multiple_of(1 << 20) => format!("{}MiB", b >> 20),
        b if b >= 1 << 10 && b.is_multiple_of(1 << 10) => format!("{}KiB", b >> 10),
        b => format!("{b}B"),
    }
}

/// Nanoseconds, to three figures.
pub(crate) fn duration(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1_000 => return format!("{nanos} ns"),
        1_000..1_000_000 => (nanos as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanos as f64 / 1e6, "ms"),
        _ => (nanos as f64 / 1e9, "s"),
    };
    match value {
        v if v < 10.0 => format!("{v:.2} {unit}"),
        v if v < 100.0 => format!("{v:.1} {unit}"),
        v => format!("{v:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Gauge;
    use crate::report::tests::{report, row};

    #[test]
    fn engines_stand_side_by_side() {
        let rows = vec![
            row("read", Engine::Connector, 3000),
            row("read", Engine::NixlSys, 2000),
            row("metadata", Engine::Connector, 10),
        ];
        let report = report(rows, vec![Gauge::new("idle", 0.25, "%")]);
        let lines = lines(&report);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0][1..3], ["4KiB", "3.00 us"]);
        assert_eq!(lines[0][9], "1.50");
        assert_eq!(lines[1][9], "");
        let markdown = markdown(&report);
        assert!(markdown.contains("| read | 4KiB | 3.00 us |"), "{markdown}");
        assert!(markdown.contains("| idle | 0.25 | % |"), "{markdown}");
        assert!(terminal(&report).contains("idle: 0.25 %"));
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(
            [999, 1000, 12_345, 123_456, 1_500_000].map(duration),
            ["999 ns", "1.00 us", "12.3 us", "123 us", "1.50 ms"]
        );
        assert_eq!([1, 1000, 4096, 5 << 20].map(size), ["1B", "1000B", "4KiB", "5MiB"]);
    }
}
