//! SentencePiece's scores as merges.

use ahash::AHashMap;

use crate::{
    assets::{TYPE_NORMAL, TYPE_USER_DEFINED},
    texts::Texts,
};

/// The merges that a SentencePiece BPE vocabulary implies: a piece comes from any two others, the
/// best scores first (Sennrich et al., 2016; Kudo & Richardson, 2018).
///
/// `types` are GGUF's: control, unused and byte tokens are nobody's parts.
pub fn merges_of_scores(tokens: &Texts, types: &[u32], scores: &[f32]) -> Texts {
    let is_piece = |id: usize| {
        let kind = types.get(id).copied().unwrap_or(TYPE_NORMAL);
        // Merges are written with a space between.
        matches!(kind, TYPE_NORMAL | TYPE_USER_DEFINED) && !tokens[id].contains(' ')
    };
    let score = |id: usize| scores.get(id).copied().unwrap_or(0.0);
    let mut pieces: Vec<_> = (0..tokens.len()).filter(|&id| is_piece(id)).collect();
    let ids: AHashMap<&str, usize> = pieces.iter().map(|&id| (&tokens[id], id)).collect();
    pieces.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    let mut merges: Vec<String> = Vec::new();
    for &piece in &pieces {
        let text = &tokens[piece];
        let splits = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let known =
            |&(left, right): &(&str, &str)| ids.contains_key(left) && ids.contains_key(right);
        let mut splits: Vec<_> = splits.filter(known).collect();
        // Of a piece's splits, first the one whose worse part is the better one.
        splits.sort_by_key(|(left, right)| ids[left].max(ids[right]));
        merges.extend(splits.into_iter().map(|(left, right)| format!("{left} {right}")));
    }
    merges.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_from_pieces_best_first() {
        let tokens = Texts::from(["<s>", "a", "b", "ab", "aba", "<0x41>", "ba"]);
        let types = [3, 1, 1, 1, 1, 6, 1];
        let scores = [0.0, -9.0, -9.0, -1.0, -3.0, 0.0, -2.0];
        assert_eq!(
            merges_of_scores(&tokens, &types, &scores).to_strings(),
            ["a b", "b a", "ab a", "a ba"]
        );
    }
}
