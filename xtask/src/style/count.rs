//! The counts of a tree of sources.

use std::path::Path;

use super::source::{self, Source};
use super::words;

/// Lines of more columns are wide.
pub(super) const COLUMNS: usize = 140;

#[derive(Debug, Default)]
pub(super) struct Counts {
    files: Vec<usize>,
    lines: usize,
    docs: usize,
    comments: usize,
    unsafes: usize,
    safety: usize,
    functions: Vec<usize>,
    items: usize,
    fields: usize,
    panics: usize,
    wide: usize,
    quaint: usize,
    loose: usize,
    root_names: usize,
}

impl Counts {
    pub(super) const HEADINGS: &str = "\
| tree | files | lines | median / longest file | doc % | comment % | unsafe / SAFETY | fn median / p95 / longest | pub per kloc | pub fields | panics per kloc | wide | quaint words per kloc | loose words per kloc | root names |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

    pub(super) fn add(&mut self, source: &Source) {
        let lines = &source.lines;
        self.files.push(lines.len());
        self.lines += lines.len();
        for line in lines {
            self.line(line);
        }
        self.functions.extend((0..lines.len()).filter_map(|at| function(lines.get(at..)?)));
    }

    fn line(&mut self, line: &str) {
        let code = line.trim_start();
        let is_doc = code.starts_with("///") || code.starts_with("//!");
        self.docs += usize::from(is_doc);
        self.comments += usize::from(!is_doc && code.starts_with("//"));
        self.safety += usize::from(code.starts_with("//") && code.contains("SAFETY"));
        self.wide += usize::from(is_wide(line));
        let quaint = words::QUAINT.iter().flat_map(|words| *words);
        self.quaint += quaint.map(|word| words::count(line, word)).sum::<usize>();
        self.loose += words::loose(line);
        if code.starts_with("//") {
            return;
        }
        self.unsafes += usize::from(["unsafe {", "unsafe impl"].iter().any(|u| code.contains(u)));
        self.items += usize::from(is_public_item(code));
        self.fields += usize::from(is_public_field(line));
        self.panics += panics(code);
    }

    /// Adds the public names of a crate's root.
    pub(super) fn add_root(&mut self, src: &Path) {
        self.root_names += root_names(src, "lib");
    }

    /// Public fields.
    #[cfg(test)]
    pub(super) fn fields(&self) -> usize {
        self.fields
    }

    /// A row of the table, in thousands of lines where that is the unit.
    pub(super) fn row(&mut self, name: &str) -> String {
        self.files.sort_unstable();
        self.functions.sort_unstable();
        let percent = |count: usize| count as f64 * 100.0 / self.lines.max(1) as f64;
        let per_thousand = |count: usize| percent(count) * 10.0;
        format!(
            "| {name} | {} | {} | {} / {} | {:.1} | {:.1} | {} / {} | {} / {} / {} | {:.1} | {} | {:.1} | {} | {:.1} | {:.1} | {} |",
            self.files.len(),
            self.lines,
            quantile(&self.files, 50),
            quantile(&self.files, 100),
            percent(self.docs),
            percent(self.comments),
            self.unsafes,
            self.safety,
            quantile(&self.functions, 50),
            quantile(&self.functions, 95),
            quantile(&self.functions, 100),
            per_thousand(self.items),
            self.fields,
            per_thousand(self.panics),
            self.wide,
            per_thousand(self.quaint),
            per_thousand(self.loose),
            self.root_names,
        )
    }
}

/// Whether a line is too wide. Tables of documentation and strings are as long as they must be.
pub(super) fn is_wide(line: &str) -> bool {
    let code = line.trim_start();
    let is_table = code.starts_with('|') || code.starts_with("//") && code.contains('|');
    let is_string = !code.starts_with("//") && code.contains('"');
    !is_table && !is_string && line.chars().count() > COLUMNS
}

fn is_public_item(code: &str) -> bool {
    const ITEMS: [&str; 12] = [
        "fn", "async", "unsafe", "const", "static", "struct", "enum", "trait", "type", "mod",
        "use", "macro",
    ];
    let first = code.strip_prefix("pub ").and_then(|item| item.split_whitespace().next());
    first.is_some_and(|first| ITEMS.contains(&first))
}

/// The public names of a module at the root of a crate's sources. A module that cannot be read has none.
fn root_names(src: &Path, module: &str) -> usize {
    let file = source::file(&src.join(module).with_extension("rs"));
    let read = |module: &str| root_names(src, module);
    file.map_or(0, |file| public_names(&file.lines.join("\n"), &read))
}

/// The own public names of a module: items, modules and names of its `pub use`. Hidden ones do not count, nor names of other
/// crates. `of_module` counts those of a module whose names are all re-exported.
fn public_names(text: &str, of_module: &dyn Fn(&str) -> usize) -> usize {
    let lines: Vec<_> = text.lines().collect();
    let is_hidden = |at: usize| {
        let before = lines.get(..at).into_iter().flatten().rev();
        before.take_while(|line| line.starts_with('#')).any(|line| line.contains("doc(hidden)"))
    };
    let own: Vec<_> = declared(&lines);
    let heads = lines
        .iter()
        .enumerate()
        .filter(|(at, line)| line.starts_with("pub ") && is_public_item(line) && !is_hidden(*at));
    heads
        .map(|(at, line)| match line.strip_prefix("pub use ") {
            None => 1,
            Some(_) => {
                let mut rest = lines.get(at..).into_iter().flatten();
                let mut used = String::new();
                while let Some(line) = rest.next().filter(|_| !used.contains(';')) {
                    used.push_str(line.trim());
                }
                used_names(used.trim_start_matches("pub use "), &own, of_module)
            }
        })
        .sum()
}

/// The modules that a root declares.
fn declared<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let name = |line: &&'a str| {
        let (before, name) = line.trim_end().strip_suffix(';')?.split_once("mod ")?;
        (before.is_empty() || before.starts_with("pub")).then_some(name)
    };
    lines.iter().filter_map(name).collect()
}

/// The names of one `pub use`, if it is of a module of the crate.
fn used_names(used: &str, own: &[&str], of_module: &dyn Fn(&str) -> usize) -> usize {
    let path = used.trim_start_matches("crate::").trim_start_matches("self::");
    let module = path.split("::").next().unwrap_or_default();
    if !own.contains(&module) {
        return 0;
    }
    if path.ends_with("::*;") {
        return of_module(module);
    }
    let names = path.split([',', '{', '}', ';']).map(str::trim);
    names.filter(|name| !name.is_empty() && !name.ends_with("::")).count()
}

fn is_public_field(line: &str) -> bool {
    let Some(field) = line.trim_start().strip_prefix("pub ") else { return false };
    let name = field.split_once(": ").map(|(name, _)| name);
    line.starts_with(' ')
        && name.is_some_and(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

fn panics(code: &str) -> usize {
    const CALLS: [&str; 9] = [
        ".unwrap()",
        ".expect(",
        "panic!(",
        "unreachable!(",
        "todo!(",
        "unimplemented!(",
        "assert!(",
        "assert_eq!(",
        "assert_ne!(",
    ];
    let calls: usize = CALLS.iter().map(|call| code.matches(call).count()).sum();
    calls.saturating_sub(code.matches("debug_assert").count())
}

/// The lines of the function whose head is the first of these, as rustfmt lays it out. `None` if there is none, or no body.
fn function(lines: &[String]) -> Option<usize> {
    let (head, rest) = lines.split_first()?;
    let code = head.trim_start();
    let indent = head.len() - code.len();
    let mut before = code.split_once("fn ")?.0.split_whitespace();
    let is_head = before.all(|word| {
        word.starts_with("pub")
            || word.starts_with("in")
            || word.starts_with('"')
            || word.ends_with(')')
            || matches!(word, "const" | "async" | "unsafe" | "extern" | "default")
    });
    if !is_head || code.ends_with(';') {
        return None;
    }
    if code.ends_with('}') {
        return Some(1);
    }
    let is_end = |line: &&String| {
        let code = line.trim_start();
        line.len() - code.len() == indent && (code.starts_with('}') || code.ends_with(';'))
    };
    let end = rest.iter().position(|line| is_end(&line))?;
    rest.get(end)?.trim_start().starts_with('}').then_some(end + 2)
}

fn quantile(sorted: &[usize], percent: usize) -> usize {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn functions_are_measured_from_head_to_brace() {
        assert_eq!(function(&lines("fn a() {}")), Some(1));
        assert_eq!(
            function(&lines(
                "    pub(crate) unsafe fn a(\n        b: u8,\n    ) -> u8 {\n        b\n    }\n"
            )),
            Some(5)
        );
        assert_eq!(function(&lines("    fn a(&self);\n    }")), None);
        assert_eq!(function(&lines("    fn a(\n        b: u8,\n    );\n    }")), None);
        assert_eq!(function(&lines("let fn_ = 1;")), None);
    }

    #[test]
    fn fields_items_and_panics_are_told_apart() {
        assert!(
            is_public_field("    pub bytes: u64,") && !is_public_field("    pub fn a(b: u8) {")
        );
        assert!(is_public_item("pub fn a(b: u8) {") && !is_public_item("pub bytes: u64,"));
        assert_eq!(panics("debug_assert!(a.unwrap() == 1);"), 1);
        assert_eq!(panics("a.unwrap_or(1)"), 0);
    }

    #[test]
    fn tables_and_strings_are_not_wide() {
        let long = "a".repeat(COLUMNS);
        assert!(is_wide(&format!("// {long}")) && is_wide(&format!("x{long}")));
        assert!(!is_wide(&format!("//! | {long} |")) && !is_wide(&format!("\"{long}\"")));
        assert!(!is_wide(&long));
    }

    #[test]
    fn counts_are_of_lines_in_thousands() {
        let mut counts = Counts::default();
        counts.add(&Source::without_tests("//! Nobody.\nfn a() {\n    b.unwrap();\n}\n"));
        let row = counts.row("x");
        assert!(row.starts_with("| x | 1 | 4 | 4 / 4 | 25.0 | 0.0 | 0 / 0 | 3 / 3 / 3 |"), "{row}");
        assert!(row.ends_with("| 250.0 | 0 | 250.0 | 0.0 | 0 |"), "{row}");
    }

    #[test]
    fn root_names_are_the_crates_own_and_shown() {
        let text = "pub mod a;\nmod b;\npub use b::{\n    C, D,\n    e::F,\n};\n#[doc(hidden)]\npub use b::G;\npub use other::H;\npub fn i() {}\n";
        assert_eq!(public_names(text, &|_| 0), 5);
        assert_eq!(public_names("mod a;\npub use a::*;\n", &|module| module.len()), 1);
    }
}
