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

/// What is counted apart, and not banned, since each has plain uses too: human speech of programs, `word` where a message is
/// meant, `look` as a noun, and clauses that begin with `what`.
const LOOSE: [Phrase; 13] = [
    Phrase::Word("word"),
    Phrase::Word("words"),
    Phrase::Word("tell"),
    Phrase::Word("tells"),
    Phrase::Word("told"),
    Phrase::Word("says"),
    Phrase::Word("said"),
    Phrase::Word("asks"),
    Phrase::Word("asked"),
    Phrase::Word("hears"),
    Phrase::Word("heard"),
    Phrase::Word("a look"),
    Phrase::Pair("what", "that"),
];

/// A word, or a word before another within one clause.
enum Phrase {
    Word(&'static str),
    Pair(&'static str, &'static str),
}

/// How often the words that are counted apart are in a line's comment.
pub(crate) fn loose(line: &str) -> usize {
    let Some((_, comment)) = line.split_once("//") else { return 0 };
    let occurrences = |phrase: &Phrase| match phrase {
        Phrase::Word(word) => count(comment, word),
        Phrase::Pair(first, second) => {
            let clauses = comment.split([',', '.', ';', ':']);
            clauses.filter(|clause| is_before(clause, first, second)).count()
        }
    };
    LOOSE.iter().map(occurrences).sum()
}

/// Whether a clause has both words, in this order.
fn is_before(clause: &str, first: &str, second: &str) -> bool {
    let clause = clause.to_lowercase();
    let mut words = clause.split_whitespace();
    words.any(|word| word == first) && words.any(|word| word == second)
}

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

    #[test]
    fn loose_words_are_those_of_comments() {
        assert_eq!(loose("let word = told; // The word that was told."), 2);
        assert_eq!(loose("/// What the peer has sent that is late, and that."), 1);
        assert_eq!(loose("//! What it is, that."), 0);
        assert_eq!(loose("word()"), 0);
    }
}
