//! The words that the house style excludes.

/// Words and phrases of which none may appear in the crates' sources. A synonym is no gain: name the driver, the target or the caller.
pub(crate) const BANNED: [&str; 8] = [
    "nobody",
    "somebody",
    "anybody",
    "everybody",
    "whoever",
    "whatever",
    "let go of",
    "lets go of",
];

/// What is counted besides: personification and words for which the field has a term.
const COUNTED: [&str; 12] = [
    "whom",
    "rouse",
    "roused",
    "linger",
    "lingers",
    "in vain",
    "peer's word",
    "reader's word",
    "writer's word",
    "last word",
    "by nature",
    "looks after",
];

/// All words that `cargo xtask style` counts.
pub(crate) const QUAINT: [&[&str]; 2] = [&BANNED, &COUNTED];

/// How often a word or phrase is in a text, as whole words in lower or upper case.
pub(crate) fn count(text: &str, word: &str) -> usize {
    let text = text.to_lowercase();
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .filter(|&(at, _)| {
            let before = text.get(..at).and_then(|t| t.chars().next_back());
            let after = text.get(at + word.len()..).and_then(|t| t.chars().next());
            !before.is_some_and(is_letter) && !after.is_some_and(is_letter)
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_whole_and_in_either_case() {
        assert_eq!(count("Nobody, nobody: nobody_knows", "nobody"), 2);
        assert_eq!(count("it lets go of it and let go of it", "let go of"), 1);
        assert_eq!(count("the peer's word, the peer's words", "peer's word"), 1);
        assert_eq!(count("", "whom"), 0);
    }
}
