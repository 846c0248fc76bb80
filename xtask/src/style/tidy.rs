//! House style of the crates' sources and documents, as far as a test can hold it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::count::{COLUMNS, Counts, is_wide};
use super::source::{Source, files, paths};
use super::{CRATES, words};

pub(super) const ARCHITECTURE: &str = include_str!("../../../docs/ARCHITECTURE.md");
pub(super) const REFERENCE: &str = include_str!("../../../docs/REFERENCE.md");

pub(super) fn root() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/..").into()
}

/// Every source file of the crates: its path in the repository, and its text.
pub(super) fn sources() -> Vec<(String, String)> {
    let root = root();
    let folders = CRATES.iter().map(|name| root.join("crates").join(name).join("src"));
    let files = folders.flat_map(|folder| paths(&folder).unwrap());
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        (name, fs::read_to_string(&path).unwrap())
    };
    files.map(read).collect()
}

/// Fails with one line for each fault.
pub(super) fn holds(faults: impl IntoIterator<Item = String>) {
    let faults: Vec<_> = faults.into_iter().collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn faulty_lines(is_fault: impl Fn(&str) -> Option<String>) {
    holds(all_sources().iter().flat_map(|(name, text)| {
        let lines = text.lines().enumerate();
        lines
            .filter_map(|(at, line)| Some(format!("{name}:{}: {}", at + 1, is_fault(line)?)))
            .collect::<Vec<_>>()
    }));
}

#[test]
fn every_module_has_a_header() {
    let without = all_sources().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    holds(without.map(|(name, _)| {
        format!("{name}: begins without a `//!` header; say in a noun phrase what the module is")
    }));
}

#[test]
fn a_header_names_a_thing() {
    const OPENINGS: [&str; 12] = [
        "What ", "Who ", "Whom ", "Whether ", "Why ", "How ", "Where ", "When ", "Which ", "By ",
        "Is ", "Do ",
    ];
    holds(all_sources().into_iter().filter_map(|(name, text)| {
        let header = text.lines().next()?.strip_prefix("//! ")?;
        let opening = OPENINGS.iter().find(|opening| header.starts_with(**opening))?;
        Some(format!("{name}: begins with `{opening}`; begin with the field's term for the module"))
    }));
}

#[test]
fn no_line_is_wide() {
    faulty_lines(|line| is_wide(line).then(|| format!("more than {COLUMNS} columns")));
}

/// The documents of the repository: their paths, and their texts.
fn documents() -> Vec<(String, String)> {
    let root = root();
    let crates = CRATES.iter().map(|name| format!("crates/{name}/README.md"));
    let mut names: Vec<_> = ["README.md", "SECURITY.md"].map(str::to_owned).into_iter().collect();
    names.extend(crates);
    let pages = fs::read_dir(root.join("docs")).unwrap();
    names.extend(pages.map(|page| format!("docs/{}", page.unwrap().file_name().display())));
    names.retain(|name| name.ends_with(".md"));
    let read = |name: String| {
        let text = fs::read_to_string(root.join(&name)).unwrap();
        (name, text)
    };
    names.into_iter().map(read).collect()
}

/// The sources outside of the crates' own: tests, examples, benchmarks and `xtask`.
fn further_sources() -> Vec<(String, String)> {
    let root = root();
    let crates = CRATES.iter().flat_map(|name| {
        ["tests", "examples", "benches"].map(|folder| format!("crates/{name}/{folder}"))
    });
    let others = ["benches", "tests", "xtask", "fuzz/fuzz_targets"].map(str::to_owned);
    let folders: Vec<_> =
        crates.chain(others).filter(|folder| root.join(folder).is_dir()).collect();
    let files = folders.iter().flat_map(|folder| paths(&root.join(folder)).unwrap());
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        (name, fs::read_to_string(&path).unwrap())
    };
    files.map(read).collect()
}

/// Every source file of the repository.
fn all_sources() -> Vec<(String, String)> {
    [sources(), further_sources()].concat()
}

/// Settings and scripts, whose comments follow the same rules.
fn scripts() -> Vec<(String, String)> {
    const NAMES: [&str; 5] =
        [".cargo/config.toml", "Cargo.toml", "clippy.toml", "deny.toml", "xtask/src/bundle/run"];
    let read = |name: &str| (name.to_owned(), fs::read_to_string(root().join(name)).unwrap());
    NAMES.map(read).to_vec()
}

#[test]
fn no_word_is_banned() {
    // The list itself, its tests, and a user of Unix.
    let is_exempt = |name: &str, line: &str| {
        name.starts_with("xtask/src/style/")
            || line.contains("`nobody`")
            || line.contains("\"nobody\"")
    };
    let texts = [all_sources(), scripts(), documents()].concat();
    holds(texts.iter().flat_map(|(name, text)| {
        let lines = text.lines().enumerate().filter(|(_, line)| !is_exempt(name, line));
        let faults = lines.filter_map(|(at, line)| {
            let word = words::BANNED.iter().find(|word| words::count(line, word) > 0)?;
            Some(format!("{name}:{}: `{word}`; name the driver, the target or the caller", at + 1))
        });
        faults.collect::<Vec<_>>()
    }));
}

/// The first example in Rust of a document.
fn example(text: &str) -> Option<&str> {
    let (_, code) = text.split_once("\n```rust")?;
    code.split_once('\n')?.1.split_once("\n```").map(|(code, _)| code)
}

#[test]
fn the_readme_of_the_crate_to_depend_on_has_the_first_example() {
    let [ours, of_crate] = ["README.md", "crates/nixl-executor/README.md"]
        .map(|name| fs::read_to_string(root().join(name)).unwrap());
    assert!(example(&ours).is_some_and(|code| code.contains("fn main()")));
    assert_eq!(example(&ours), example(&of_crate));
}

/// The longest text of a table's cell, in characters, without the names in backquotes.
const CELL: usize = 300;

/// The characters of a cell, without the names in backquotes and the targets of links.
fn prose_len(cell: &str) -> usize {
    let text = cell.split('`').step_by(2).collect::<String>();
    text.split("](")
        .enumerate()
        .map(|(at, part)| match at {
            0 => part.chars().count(),
            _ => part.split_once(')').map_or(0, |(_, rest)| rest.chars().count()),
        })
        .sum()
}

#[test]
fn cells_of_tables_are_short() {
    holds(documents().iter().flat_map(|(name, text)| {
        let rows = text.lines().enumerate().filter(|(_, line)| line.starts_with('|'));
        let wide = rows.filter(|(_, row)| row.split('|').any(|cell| prose_len(cell.trim()) > CELL));
        wide.map(|(at, _)| {
            format!("{name}:{}: a cell of more than {CELL} characters; make it a section", at + 1)
        })
        .collect::<Vec<_>>()
    }));
}

#[test]
fn names_and_targets_of_links_do_not_count_as_prose() {
    assert_eq!(prose_len("see `a/b.rs` and [it](c.md#d), too"), "see  and [it, too".len());
}

/// The name in the first line of a public type.
fn public_type(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub enum ").or_else(|| line.strip_prefix("pub struct "))?;
    rest.split(|c: char| !c.is_alphanumeric()).next()
}

/// The types that a source declares, publicly, with a derived `Error`.
fn errors(text: &str) -> Vec<&str> {
    let lines: Vec<_> = text.lines().collect();
    let derives = |line: &str| {
        let derived = line.strip_prefix("#[derive(").and_then(|rest| rest.strip_suffix(")]"));
        derived.is_some_and(|names| names.split(", ").any(|name| name.ends_with("Error")))
    };
    let declared = |at: usize| {
        let after = lines.get(at + 1..).into_iter().flatten();
        let item = after.skip_while(|line| !line.contains(" enum ") && !line.contains(" struct "));
        item.copied().next().and_then(public_type)
    };
    (0..lines.len()).filter(|at| derives(lines[*at])).filter_map(declared).collect()
}

/// The types for which a source implements `advice`.
fn advised(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("impl ").filter_map(|(at, _)| {
        let indent = text[..at].rsplit('\n').next().filter(|before| before.trim().is_empty())?;
        let (name, body) = text[at..].strip_prefix("impl ")?.split_once(" {")?;
        let body = body.split(&format!("\n{indent}}}")).next()?;
        let advice = "pub fn advice(&self) -> Advice";
        body.contains(advice).then(|| name.rsplit("::").next().unwrap_or(name))
    })
}

#[test]
fn every_public_error_has_advice() {
    let sources = sources();
    let of_crate = |name: &str| name.split('/').nth(1).unwrap_or_default().to_owned();
    let has: BTreeSet<_> = sources
        .iter()
        .flat_map(|(name, text)| advised(text).map(|error| (of_crate(name), error)))
        .collect();
    let declared: Vec<_> = sources
        .iter()
        .flat_map(|(name, text)| errors(text).into_iter().map(move |error| (name, error)))
        .collect();
    assert!(declared.len() > 40, "{}", declared.len());
    let lacking =
        declared.into_iter().filter(|(name, error)| !has.contains(&(of_crate(name), error)));
    holds(lacking.map(|(name, error)| format!("{name}: {error} has no advice")));
}

#[test]
fn errors_and_their_advice_are_found() {
    let text = "#[derive(Debug, thiserror::Error)]\n#[error(\"x\")]\npub struct A;\n\nimpl A {\n    pub fn advice(&self) -> Advice {}\n}\n\n#[derive(Error)]\npub(crate) enum B {\n}\nimpl B {\n}\n";
    assert_eq!(errors(text), ["A"]);
    assert_eq!(advised(text).collect::<Vec<_>>(), ["A"]);
}

#[test]
fn public_fields_are_few() {
    let mut counts = Counts::default();
    let folders = CRATES.iter().map(|name| root().join("crates").join(name).join("src"));
    for source in folders.flat_map(|folder| files(&folder).unwrap()) {
        counts.add(&source);
    }
    let (fields, most) = (counts.fields(), 80);
    assert!(
        fields <= most,
        "{fields} public fields, at most {most}: make them private, with a method"
    );
}

/// The names that a cell of a table has in backquotes, with their braces expanded.
pub(super) fn names(cell: &str) -> Vec<String> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted
        .flat_map(|name| match (name.split_once('{'), name.strip_suffix('}')) {
            (Some((before, inside)), Some(_)) => inside
                .trim_end_matches('}')
                .split(',')
                .map(|part| format!("{before}{part}"))
                .collect::<Vec<_>>(),
            _ => vec![name.to_owned()],
        })
        .collect()
}

/// Modules whose sources lift the lint against unsafe code.
fn unsafe_modules() -> BTreeSet<String> {
    let lifts = |text: &str| {
        let code: String =
            Source::without_tests(text).lines.iter().map(|line| line.trim()).collect();
        ["[allow(unsafe_code", "[expect(unsafe_code"].iter().any(|lift| code.contains(lift))
    };
    let module = |name: &str| {
        name.trim_start_matches("crates/").trim_end_matches(".rs").replacen("/src", "", 1)
    };
    sources()
        .iter()
        .filter(|(name, text)| !name.contains("/tests/") && lifts(text))
        .map(|(name, _)| module(name))
        .collect()
}

#[test]
fn the_table_of_unsafe_modules_is_that_of_the_code() {
    let rows = REFERENCE.lines().skip_while(|line| *line != "| crate | modules | what for |");
    let listed: BTreeSet<String> = rows
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .flat_map(|row| {
            let cells: Vec<_> = row.split('|').collect();
            let name = names(cells[1]).remove(0);
            names(cells[2]).into_iter().map(move |module| format!("{name}/{module}"))
        })
        .collect();
    assert_eq!(listed, unsafe_modules(), "docs/REFERENCE.md, and the code");
}

/// Every file of a crate that ARCHITECTURE names in its table of crates exists.
#[test]
fn the_code_map_names_files_that_exist() {
    let rows = ARCHITECTURE.lines().filter(|line| line.starts_with("| `nixl-"));
    holds(rows.flat_map(|row| {
        let cells: Vec<_> = row.split('|').collect();
        let name = names(cells[1]).remove(0);
        let folder = root().join("crates").join(&name).join("src");
        let is_missing = |file: &String| !folder.join(file).is_file();
        let files = cells.get(3).map(|cell| names(cell)).unwrap_or_default();
        let files = files.into_iter().filter(|file| file.ends_with(".rs"));
        files
            .filter(is_missing)
            .map(|file| format!("{name}: {file} is not there"))
            .collect::<Vec<_>>()
    }));
}

/// The answers to a newcomer's questions name files that exist.
#[test]
fn the_questions_are_answered_by_files_that_exist() {
    let rows = ARCHITECTURE.lines().skip_while(|line| *line != "| question | file |");
    let rows: Vec<_> = rows.skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 4, "docs/ARCHITECTURE.md has the table of questions");
    holds(rows.into_iter().flat_map(|row| {
        let answer = row.split('|').nth(2).unwrap_or_default();
        let files: Vec<_> = names(answer).into_iter().filter(|n| n.ends_with(".rs")).collect();
        let missing = files.iter().filter(|file| !root().join("crates").join(file).is_file());
        let mut faults: Vec<_> = missing.map(|file| format!("{file} is not there")).collect();
        if files.is_empty() {
            faults.push(format!("no file answers: {row}"));
        }
        faults
    }));
}

#[test]
fn names_in_braces_are_expanded() {
    assert_eq!(names("`a`, `b/{c,d}` and `e`"), ["a", "b/c", "b/d", "e"]);
}
