//! Real text in which every word's tokens are known, to be dealt out in exact numbers of tokens.

use baton_workload::{Prompt, Segment, random::mix};

/// The text that prompts are taken from.
pub(crate) const TEXT: &str = include_str!("text.txt");
/// Each stretch of text begins with so many words of its own, so that no two prompts begin alike.
const OWN_WORDS: u64 = 6;
/// What a prompt begins with, for the first word of a text is often another token than inside it.
pub(crate) const OPENER: &str = "Read";

/// Words in order, each with the space before it.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    text: String,
    words: Vec<Word>,
    endings: Endings,
    /// Whether counts are the tokeniser's own, and not a guess.
    is_exact: bool,
    /// Words' tokens for each of a prompt's, where that was only guessed.
    scale: f64,
}

#[derive(Clone, Copy, Debug)]
struct Word {
    from: usize,
    to: usize,
    tokens: u32,
}

/// Which words lead to exactly so many tokens.
#[derive(Clone, Debug)]
struct Endings(Vec<Option<Vec<usize>>>);

/// Beyond so many tokens left any word will do.
const NEAR: usize = 64;

impl Endings {
    fn new(words: &[Word]) -> Self {
        let mut by_left: Vec<Option<Vec<usize>>> = vec![Some(Vec::new())];
        for left in 1..NEAR {
            let leads = |word: &Word| {
                left.checked_sub(word.tokens as usize).is_some_and(|rest| by_left[rest].is_some())
            };
            let fitting: Vec<usize> = (0..words.len()).filter(|nth| leads(&words[*nth])).collect();
            by_left.push((!fitting.is_empty()).then_some(fitting));
        }
        Endings(by_left)
    }

    fn can_end(&self, left: u32) -> bool {
        self.0.get(left as usize).is_none_or(Option::is_some)
    }

    /// Those that may come next; none where nothing fits.
    fn words(&self, left: u32) -> Option<&[usize]> {
        let fitting = self.0.get(left as usize)?.as_deref()?;
        (!fitting.is_empty()).then_some(fitting)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WordsError {
    #[error("the text has {words} words; it takes at least {FEWEST} to make prompts of")]
    Short { words: usize },
    #[error(
        "the tokeniser doesn't keep words apart: {tokens} tokens begin with a space where {words} words do"
    )]
    Apart { words: usize, tokens: usize },
}

const FEWEST: usize = 100;
/// Tokens of a word, by its letters, if nobody can be asked: what byte-level tokenisers have for English.
const LETTERS_OF_TOKEN: usize = 5;

/// As one line, with single spaces.
pub(crate) fn flat(text: &str) -> String {
    let mut flat = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        flat.push(' ');
        flat.push_str(word);
    }
    flat
}

impl Words {
    /// Of a flat text, by its tokens as the tokeniser writes them: each with its space, or a sign for it.
    ///
    /// # Errors
    ///
    /// A text that is too short, or a tokeniser whose tokens span words.
    pub(crate) fn counted<'a>(
        text: String,
        tokens: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, WordsError> {
        let mut counts: Vec<u32> = Vec::new();
        for token in tokens {
            let begins = token.starts_with([' ', '\u{120}', '\u{2581}']);
            match counts.last_mut() {
                Some(count) if !begins => *count += 1,
                // What comes before the first word is the tokeniser's own, such as a sign for the beginning.
                None if !begins => {}
                _ => counts.push(1),
            }
        }
        let (words, tokens) = (text.split(' ').skip(1).count(), counts.len());
        if words != tokens {
            return Err(WordsError::Apart { words, tokens });
        }
        Words::new(text, counts, true)
    }

    /// Of a flat text, guessing how many tokens its words are.
    ///
    /// # Errors
    ///
    /// A text that is too short.
    pub(crate) fn guessed(text: String) -> Result<Self, WordsError> {
        let counts = text
            .split(' ')
            .skip(1)
            .map(|word| word.len().div_ceil(LETTERS_OF_TOKEN).max(1) as u32)
            .collect();
        Words::new(text, counts, false)
    }

    fn new(text: String, counts: Vec<u32>, is_exact: bool) -> Result<Self, WordsError> {
        if counts.len() < FEWEST {
            return Err(WordsError::Short { words: counts.len() });
        }
        let mut from = 0;
        let words: Vec<Word> = text
            .split(' ')
            .skip(1)
            .zip(counts)
            .map(|(word, tokens)| {
                let word = Word { from, to: from + 1 + word.len(), tokens };
                from = word.to;
                word
            })
            .collect();
        let endings = Endings::new(&words);
        Ok(Words { text, words, endings, is_exact, scale: 1.0 })
    }

    /// Guessing better: so many tokens of these are one of the server's.
    #[must_use]
    pub(crate) fn scaled(self, scale: f64) -> Self {
        Words { is_exact: false, scale, ..self }
    }

    /// Whether prompts have exactly the tokens they are to have.
    pub(crate) fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// Of all words.
    pub(crate) fn tokens(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.tokens)).sum()
    }

    /// A prompt's text, opener included, whose tokens are `overhead` more than are written: those of the opener and
    /// of whatever the server adds, such as a chat template. Another salt, other words.
    pub(crate) fn write(&self, prompt: &Prompt, salt: u64, overhead: u32) -> String {
        let mut text = OPENER.to_owned();
        let mut over = overhead;
        for segment in prompt.segments() {
            let taken = over.min(segment.tokens);
            over -= taken;
            let tokens = f64::from(segment.tokens - taken) * self.scale;
            let segment = Segment { content: segment.content ^ salt, ..*segment };
            self.extend(&segment, tokens.round() as u32, &mut text);
        }
        text
    }

    /// So many tokens of a segment. What equal segments have to say is equal, from its beginning on.
    fn extend(&self, segment: &Segment, tokens: u32, text: &mut String) {
        let mut left = tokens;
        let draw = |nth: u64| mix(segment.content.wrapping_add(nth << 32));
        let begin = (draw(OWN_WORDS) % self.words.len() as u64) as usize;
        for nth in 0_u64.. {
            if left == 0 {
                return;
            }
            let index = match nth < OWN_WORDS {
                true => (draw(nth) % self.words.len() as u64) as usize,
                false => (begin + (nth - OWN_WORDS) as usize) % self.words.len(),
            };
            let word = self.words[index];
            let fits = word.tokens <= left && self.endings.can_end(left - word.tokens);
            let word = match fits {
                true => word,
                false => match self.endings.words(left) {
                    // Fewer than any word has: the tokeniser of bytes has none of one token.
                    None => return,
                    Some(fitting) => {
                        self.words[fitting[(draw(nth) % fitting.len() as u64) as usize]]
                    }
                },
            };
            text.push_str(&self.text[word.from..word.to]);
            left -= word.tokens;
        }
    }

    /// How many tokens a text is, roughly if nobody can be asked.
    pub(crate) fn estimate(&self, text: &str) -> u32 {
        let letters: usize = text.len();
        let of_own = self.text.len() as f64 / self.tokens() as f64;
        ((letters as f64 / of_own).round() as u32).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each word is a token for each four letters.
    fn words() -> Words {
        let text = flat(TEXT);
        let mut tokens = Vec::new();
        for word in text.split(' ').skip(1) {
            let spaced = format!("Ġ{word}");
            let letters: Vec<char> = spaced.chars().collect();
            tokens.extend(letters.chunks(4).map(|piece| piece.iter().collect::<String>()));
        }
        // No piece inside a word looks like a beginning.
        Words::counted(text, tokens.iter().map(String::as_str)).unwrap()
    }

    fn count(text: &str) -> usize {
        text.split(' ').skip(1).map(|word| (word.chars().count() + 1).div_ceil(4)).sum()
    }

    #[test]
    fn prompts_have_as_many_tokens_as_they_are_to_have() {
        let words = words();
        for tokens in (1..200).chain([1000, 100_000]) {
            for content in 0..5 {
                let prompt = Prompt::new([Segment { content, tokens }]);
                let text = words.write(&prompt, 0, 0);
                assert_eq!(count(&text), tokens as usize, "{text}");
                assert!(text.starts_with(OPENER));
                let with_template = words.write(&prompt, 0, 7);
                assert_eq!(count(&with_template), tokens.saturating_sub(7) as usize);
            }
        }
    }

    #[test]
    fn prompts_share_what_they_are_to_share() {
        let words = words();
        let prompt = |own, tokens| {
            let segments = [Segment { content: 1, tokens: 50 }, Segment { content: own, tokens }];
            words.write(&Prompt::new(segments), 0, 5)
        };
        let shared =
            |a: &str, b: &str| a.split(' ').zip(b.split(' ')).take_while(|(a, b)| a == b).count();
        let (one, other) = (prompt(2, 100), prompt(3, 100));
        let common: Vec<_> = one.split(' ').take(shared(&one, &other)).collect();
        assert!((45..=50).contains(&count(&common.join(" "))), "{common:?}");
        assert!(
            prompt(2, 200).starts_with(one.rsplit_once(' ').unwrap().0.rsplit_once(' ').unwrap().0)
        );
    }

    /// Each byte is a token, so that no word is one alone.
    #[test]
    fn prompts_of_bytes_are_exact_too() {
        let text = flat(TEXT);
        let tokens: Vec<&str> =
            text.char_indices().map(|(at, letter)| &text[at..at + letter.len_utf8()]).collect();
        let words = Words::counted(text.clone(), tokens).unwrap();
        for tokens in (2..150).chain([5000]) {
            let prompt = Prompt::new([Segment { content: u64::from(tokens), tokens }]);
            assert_eq!(words.write(&prompt, 0, 0).len() - OPENER.len(), tokens as usize);
        }
    }

    #[test]
    fn a_tokeniser_that_spans_words_is_noticed() {
        let error = Words::counted(" two words".to_owned(), ["Ġtwo words"]).unwrap_err();
        assert_eq!(error, WordsError::Apart { words: 2, tokens: 1 });
        assert_eq!(Words::guessed(" a b".to_owned()).unwrap_err(), WordsError::Short { words: 2 });
    }
}
