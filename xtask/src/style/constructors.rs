//! Ways to make the public structs that are `non_exhaustive`.

use super::source::Source;
use super::tidy;

/// The public structs of a source that are `non_exhaustive`, and whether they derive `Default`.
fn closed(text: &str) -> Vec<(&str, bool)> {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let declared = |at: usize| {
        let name = lines[at].strip_prefix("pub struct ")?;
        let name = name.split(|c: char| !c.is_alphanumeric()).next()?;
        let before = lines[..at]
            .iter()
            .rev()
            .take_while(|line| !line.is_empty() && !line.ends_with('}') && !line.ends_with(';'));
        let attributes: Vec<_> = before.filter(|line| !line.starts_with("//")).collect();
        let has = |text: &str| attributes.iter().any(|line| line.contains(text));
        has("#[non_exhaustive]").then(|| (name, has("Default")))
    };
    (0..lines.len()).filter_map(declared).collect()
}

/// Whether a source has a public function, or a trait of the language, that returns the type.
fn makes(text: &str, name: &str) -> bool {
    let code: String = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let traits = ["Default", "From<", "TryFrom<", "FromStr"];
    code.split("impl").skip(1).any(|implementation| {
        let head = implementation.split('{').next().unwrap_or_default();
        let of_trait = head.split_once(" for ").is_some_and(|(of, ty)| {
            traits.iter().any(|name| of.contains(name)) && is_named(ty, name)
        });
        of_trait
            || (!head.contains(" for ")
                && is_named(head, name)
                && has_function(implementation, name))
    })
}

/// Whether a public function of the type's `impl` returns the type, by name or as `Self`.
fn has_function(code: &str, name: &str) -> bool {
    code.split("pub ").skip(1).any(|item| {
        let head = item.split('{').next().unwrap_or_default();
        let returned = head.split_once("->").map(|(_, returned)| returned);
        head.contains("fn ")
            && !head.contains("self")
            && returned.is_some_and(|ty| is_named(ty, name) || is_named(ty, "Self"))
    })
}

fn is_named(text: &str, name: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}

#[test]
fn every_struct_that_is_non_exhaustive_can_be_made() {
    let sources = tidy::sources();
    let closed: Vec<_> = sources
        .iter()
        .flat_map(|(path, text)| closed(text).into_iter().map(move |found| (path, text, found)))
        .collect();
    /// Errors that this workspace alone makes, and a name for functions without values.
    const EXEMPT: [&str; 3] = ["ParseDTypeError", "ParseTraceContextError", "Leases"];
    assert!(!closed.is_empty(), "the attribute is not found");
    let lacking = closed.into_iter().filter(|(_, text, (name, is_default))| {
        !is_default
            && !EXEMPT.contains(name)
            && !makes(&Source::without_tests(text).lines.join("\n"), name)
    });
    tidy::holds(lacking.map(|(path, _, (name, _))| {
        format!("{path}: {name} is non_exhaustive, and nothing public makes one: give it a constructor, or drop the attribute")
    }));
}

#[test]
fn structs_and_their_constructors_are_found() {
    let text = "#[derive(Debug)]\n#[non_exhaustive]\npub struct A {\n}\nimpl A {\n    pub(crate) fn new() -> Self {}\n    pub fn more(self) -> Self {}\n}\n";
    assert_eq!(closed(text), [("A", false)]);
    assert!(!makes(text, "A"));
    assert!(makes(&text.replace("pub(crate)", "pub"), "A"));
    assert!(makes("impl FromStr for A {\n}", "A"));
    assert!(!makes("impl B {\n    pub fn a() -> A {}\n}\npub fn c() -> A {}", "A"));
}
