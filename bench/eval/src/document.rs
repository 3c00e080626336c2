//! The document's tables, between marks; what stands around them is written by hand.

use anyhow::Context;

/// Puts `table` in the place of what stands between the section's marks.
pub(crate) fn replace(document: &str, section: &str, table: &str) -> anyhow::Result<String> {
    let (begin, end) = (format!("<!-- {section} -->\n"), format!("<!-- end of {section} -->"));
    let at = document.find(&begin).with_context(|| format!("no line {begin:?}"))? + begin.len();
    let length = document[at..].find(&end).with_context(|| format!("no {end:?} behind it"))?;
    Ok([&document[..at], table, &document[at + length..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let document = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n";
        let new = replace(document, "x", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- x -->\nnew\n<!-- end of x -->\nb\n");
        assert!(replace(document, "y", "new\n").is_err());
    }
}
