//! Many short texts in one.

use std::ops::Index;

/// A list of texts, as a vocabulary is: all in one string, for as strings of their own tens of thousands take four times the
/// memory.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Texts {
    all: String,
    /// Where each ends in `all`.
    ends: Vec<usize>,
}

impl Texts {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.all[start..end])
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        (0..self.len()).map(|index| &self[index])
    }

    pub fn to_strings(&self) -> Vec<String> {
        self.iter().map(str::to_owned).collect()
    }
}

impl Index<usize> for Texts {
    type Output = str;

    fn index(&self, index: usize) -> &str {
        self.get(index).unwrap_or_else(|| panic!("text {index} of {}", self.len()))
    }
}

impl<T: AsRef<str>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut list = Texts::default();
        for text in texts {
            list.all.push_str(text.as_ref());
            list.ends.push(list.all.len());
        }
        list.all.shrink_to_fit();
        list.ends.shrink_to_fit();
        list
    }
}

impl<T: AsRef<str>, const N: usize> From<[T; N]> for Texts {
    fn from(texts: [T; N]) -> Self {
        texts.into_iter().collect()
    }
}

impl std::fmt::Debug for Texts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_gives_back_what_went_in() {
        let given = ["a", "", "Ġab", "", "é"];
        let texts = Texts::from(given);
        assert_eq!(texts.to_strings(), given);
        assert_eq!((texts.len(), texts.get(4), texts.get(5)), (5, Some("é"), None));
        assert_eq!(&texts[2], "Ġab");
        assert!(Texts::default().is_empty());
    }
}
