//! Import rules between the modules of `nixl-executor`, the absence of circles within its folders, and the purity of its
//! planner.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Source;
use super::tidy::{ARCHITECTURE, holds, sources};

const CRATE: &str = "crates/nixl-executor/src/";

/// The modules of the crate, from the bottom up. A file may name its own module and those of the rows below.
const LAYERS: [&[&str]; 9] = [
    &["local"],
    &["facts", "files"],
    &["planner"],
    &["peers"],
    &["messages", "pinned_slots", "remote_memory"],
    &["sessions"],
    &["transfers"],
    &["connection"],
    // The public names. They are written in `lib.rs` and not used inside the crate.
    &["begin", "cudarc", "fuzz", "lib", "paths", "prelude"],
];

/// The modules in which nothing may be read, waited for or counted.
const PURE: [&str; 1] = ["planner"];

/// Names that a pure module has no use for: locks and other state, the environment, the system, the driver, metrics and logs.
const IMPURE: [&str; 29] = [
    "Mutex",
    "RwLock",
    "Condvar",
    "Once",
    "OnceLock",
    "OnceCell",
    "LazyLock",
    "LazyCell",
    "Cell",
    "RefCell",
    "PerProcess",
    "thread_local",
    "atomic",
    "static",
    "unsafe",
    "env",
    "fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "Clock",
    "Instant",
    "SystemTime",
    "cuda::",
    "GpuBackend",
    "metrics",
    "tracing",
    "extern",
];

/// The row of a module.
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// A source file, without comments and its module of tests.
struct File<'a> {
    /// Below `src`.
    path: &'a str,
    code: String,
}

impl<'a> File<'a> {
    fn new(path: &'a str, text: &str) -> Self {
        let lines = Source::without_tests(text).lines;
        let code = lines.iter().map(|line| line.split("//").next().unwrap_or_default());
        Self { path, code: code.collect::<Vec<_>>().join("\n") }
    }

    /// The module below the crate's root.
    fn module(&self) -> &'a str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs")
    }

    /// How many `super::` lead to the crate's root.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        if self.path.ends_with("/mod.rs") { parts - 1 } else { parts }
    }

    /// The line of a place in the code.
    fn line(&self, at: usize) -> usize {
        self.code.get(..at).unwrap_or_default().matches('\n').count() + 1
    }

    /// The names below the crate's root that the code mentions, each with its line.
    fn names(&self) -> Vec<(usize, String)> {
        self.names_below(&[])
    }

    /// The names below a folder of the file that the code mentions, each with its line.
    fn names_below(&self, folder: &[&str]) -> Vec<(usize, String)> {
        let to_folder = "super::".repeat(self.depth() - folder.len());
        let from_root: String = ["crate"].iter().chain(folder).map(|n| format!("{n}::")).collect();
        let mut found = Vec::new();
        for root in [&*from_root, &*to_folder] {
            for (at, _) in self.code.match_indices(root) {
                let before = self.code.get(..at).unwrap_or_default();
                if before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | ':')) {
                    continue;
                }
                let rest = self.code.get(at + root.len()..).unwrap_or_default();
                let names = first_names(rest);
                found.extend(names.into_iter().map(|name| (self.line(at), name)));
            }
        }
        found.sort();
        found
    }

    /// One line for each name against the rules.
    fn faults(&self) -> Vec<String> {
        let (path, module) = (self.path, self.module());
        let Some(own) = layer(module) else {
            return vec![format!("{CRATE}{path}:1: the module `{module}` is in no layer")];
        };
        let names = self.names().into_iter().filter(|(_, name)| name != module);
        let mut faults: Vec<_> = names
            .filter_map(|(line, name)| {
                let fault = match layer(&name) {
                    // Public names may be used where they are put together.
                    None if own + 1 == LAYERS.len() => return None,
                    None => format!("`crate::{name}` is a public name; import it from its module"),
                    Some(other) if other < own || own + 1 == LAYERS.len() => return None,
                    Some(other) if other == own => {
                        format!("`{module}` names `crate::{name}`, which is beside it")
                    }
                    Some(_) => format!("`{module}` names `crate::{name}`, which is above it"),
                };
                Some(format!("{CRATE}{path}:{line}: {fault}"))
            })
            .collect();
        if PURE.contains(&module) {
            faults.extend(self.impure());
        }
        faults
    }

    fn impure(&self) -> Vec<String> {
        let (path, module) = (self.path, self.module());
        let lines = self.code.lines().zip(1..);
        let faults = lines.flat_map(|(line, at)| {
            let names = IMPURE.iter().filter(move |name| mentions(line, name));
            names.map(move |name| {
                format!("{CRATE}{path}:{at}: `{name}` in `{module}`, which is pure")
            })
        });
        faults.collect()
    }
}

/// The modules of each folder that name each other in a circle, one line for each circle.
fn circles(files: &[File<'_>]) -> Vec<String> {
    // Of each module, by its folder: those beside it that it names.
    let mut named: BTreeMap<Vec<&str>, BTreeMap<&str, BTreeSet<String>>> = BTreeMap::new();
    for file in files {
        let parts: Vec<_> = file.path.trim_end_matches(".rs").split('/').collect();
        for (depth, module) in parts.iter().enumerate() {
            // A folder's own file is its table of contents, and part of the folder for those beside it.
            if matches!(*module, "mod" | "lib") {
                continue;
            }
            let folder = &parts[..depth];
            let names = file.names_below(folder).into_iter().map(|(_, name)| name);
            named.entry(folder.to_vec()).or_default().entry(module).or_default().extend(names);
        }
    }
    let mut faults = Vec::new();
    for (folder, named) in &named {
        let reached = |from: &str| {
            let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
            while let Some(module) = next.pop() {
                for name in named.get(module).into_iter().flatten().filter(|name| *name != module) {
                    if named.contains_key(&**name) && reached.insert(&**name) {
                        next.push(name);
                    }
                }
            }
            reached
        };
        let all: BTreeMap<_, _> = named.keys().map(|module| (*module, reached(module))).collect();
        let mut circles = BTreeSet::new();
        for (module, reached) in all.iter().filter(|(module, reached)| reached.contains(*module)) {
            let returns = |other: &&&str| all[**other].contains(module);
            circles.insert(reached.iter().filter(returns).copied().collect::<Vec<_>>());
        }
        let place = folder.iter().map(|name| format!("{name}/")).collect::<String>();
        faults.extend(
            circles
                .iter()
                .map(|circle| format!("{CRATE}{place}: a circle of `{}`", circle.join("`, `"))),
        );
    }
    faults
}

/// The first names of what follows a path to the root: one, or those of a list in braces.
fn first_names(rest: &str) -> Vec<String> {
    let first = |text: &str| -> String {
        let text = text.trim_start();
        if text.starts_with('*') {
            return "*".to_owned();
        }
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(list) = rest.strip_prefix('{') else { return vec![first(rest)] };
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(first(list.get(start..at).unwrap_or_default()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Whether a line has a name as whole words.
fn mentions(line: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name).any(|(at, _)| {
        let (before, after) = line.split_at(at);
        let after = after.get(name.len()..).unwrap_or_default();
        // Not a lifetime.
        !before.ends_with(|c| is_word(c) || c == '\'')
            && (name.ends_with(':') || !after.starts_with(is_word))
    })
}

/// The crate's files but those of tests, below `src`, with their texts.
fn files() -> Vec<(String, String)> {
    let ours = sources().into_iter().filter_map(|(name, text)| {
        let path = name.strip_prefix(CRATE)?;
        let is_test = path.split(['/', '.']).any(|part| part == "tests");
        (!is_test).then(|| (path.to_owned(), text))
    });
    ours.collect()
}

#[test]
fn modules_name_only_what_is_below_them() {
    holds(files().iter().flat_map(|(path, text)| File::new(path, text).faults()));
}

#[test]
fn modules_of_a_folder_form_no_circle() {
    let files = files();
    let files: Vec<_> = files.iter().map(|(path, text)| File::new(path, text)).collect();
    holds(circles(&files));
}

#[test]
fn circles_are_found() {
    let found = |texts: &[(&'static str, &str)]| {
        circles(&texts.iter().map(|(path, text)| File::new(path, text)).collect::<Vec<_>>())
    };
    let (a, b) = ("use super::b::B;\n", "use crate::top::a::{A, C};\n");
    let expected = format!("{CRATE}top/: a circle of `a`, `b`");
    assert_eq!(found(&[("top/a.rs", a), ("top/b.rs", b)]), [&*expected]);
    assert_eq!(found(&[("top/a.rs", a), ("top/b/mod.rs", ""), ("top/b/c.rs", b)]), [expected]);
    assert_eq!(found(&[("top/a.rs", a), ("top/b.rs", "use super::a::A;\n")]).len(), 1);
    // By way of a third; a folder's own file may name its modules; tests may name what they need.
    let c = "use super::{a, b::B};\n";
    let round = [("top/a.rs", a), ("top/b.rs", "use super::c;\n"), ("top/c.rs", c)];
    assert_eq!(found(&round), [format!("{CRATE}top/: a circle of `a`, `b`, `c`")]);
    let contents = [("top/mod.rs", "use self::a::A;\n"), ("top/a.rs", "use super::A;\n")];
    assert_eq!(found(&contents), [""; 0]);
    let test = "#[cfg(test)]\nmod tests {\n    use super::super::a::A;\n}\n";
    assert_eq!(found(&[("top/a.rs", a), ("top/b.rs", test)]), [""; 0]);
}

#[test]
fn every_module_is_in_one_layer() {
    let there: BTreeSet<_> =
        files().iter().map(|(path, text)| File::new(path, text).module().to_owned()).collect();
    let listed: Vec<_> =
        LAYERS.iter().flat_map(|row| row.iter().map(|m| (*m).to_owned())).collect();
    assert_eq!(listed.len(), listed.iter().collect::<BTreeSet<_>>().len());
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), there);
}

/// Each row of the picture begins with the modules of a layer.
#[test]
fn the_picture_of_the_layers_is_that_of_the_code() {
    let after = ARCHITECTURE.split_once("### Layers of `nixl-executor`").unwrap().1;
    let picture = after.split("```").nth(1).unwrap().trim_start_matches("text");
    let rows = picture.lines().map(str::trim).filter(|line| !line.is_empty());
    let modules = |row: &str| -> BTreeSet<String> {
        let names = row.split("  ").next().unwrap_or_default();
        names.split(',').map(|name| name.trim().trim_end_matches('/').to_owned()).collect()
    };
    let shown: Vec<_> = rows.map(modules).collect();
    let listed = LAYERS.iter().rev().map(|row| row.iter().map(|m| (*m).to_owned()).collect());
    assert_eq!(shown, listed.collect::<Vec<BTreeSet<_>>>(), "docs/ARCHITECTURE.md, and the rules");
}

#[test]
fn what_is_against_the_rules_is_found() {
    let faults = |path: &'static str, text: &str| File::new(path, text).faults();
    let at = |rest: &str| format!("{CRATE}{rest}");

    let text = "//! `crate::connection` in a comment.\nuse crate::facts::Engine;\nuse crate::connection::Shared;\n";
    let expected = "planner/a.rs:3: `planner` names `crate::connection`, which is above it";
    assert_eq!(faults("planner/a.rs", text), [at(expected)]);

    let text = "use crate::{\n    facts::{Engine, peers},\n    local::MemoryKind,\n    sessions::Sessions,\n};\n";
    let expected =
        "pinned_slots/a/b.rs:1: `pinned_slots` names `crate::sessions`, which is above it";
    assert_eq!(faults("pinned_slots/a/b.rs", text), [at(expected)]);

    let text = "fn f() {\n    super::super::pinned_slots::f();\n    super::g();\n}\n";
    let expected = "messages/a.rs:2: `messages` names `crate::pinned_slots`, which is beside it";
    assert_eq!(faults("messages/a.rs", text), [at(expected)]);
    assert_eq!(faults("sessions/a.rs", text), [""; 0]);
    let text = "use super::connection::Shared;\n";
    assert_eq!(faults("peers/mod.rs", text).len(), 1);
    assert_eq!(faults("peers/a.rs", text), [""; 0], "a module of its own");

    let expected = "facts/a.rs:1: `crate::MemoryKind` is a public name; import it from its module";
    assert_eq!(faults("facts/a.rs", "use crate::MemoryKind;\n"), [at(expected)]);
    assert_eq!(faults("begin.rs", "use crate::{MemoryKind, connection::Shared};\n"), [""; 0]);

    let text = "use std::sync::Mutex;\nlet home = std::env::var(\"HOME\");\nlet remutex = 1;\nmetrics::counter!(\"a\");\n";
    let expected = [
        "planner/a.rs:1: `Mutex` in `planner`, which is pure",
        "planner/a.rs:2: `env` in `planner`, which is pure",
        "planner/a.rs:4: `metrics` in `planner`, which is pure",
    ];
    assert_eq!(faults("planner/a.rs", text), expected.map(at));
    assert_eq!(faults("peers/a.rs", text), [""; 0]);
    let driver = "use nixl_device::cuda::devices;\nuse nixl_device::{Device, cuda::devices};\n";
    assert_eq!(faults("planner/a.rs", driver).len(), 2);

    let text = "#[cfg(test)]\nmod tests {\n    use crate::connection::Shared;\n}\n";
    assert_eq!(faults("planner/a.rs", text), [""; 0], "tests may use what they need");
    assert_eq!(faults("newcomer/a.rs", "").len(), 1);
}
