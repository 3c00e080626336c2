//! Pages of a list, as OpenAI has them.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::error::RequestError;

/// What a client asked for in the query.
#[derive(Debug, Default)]
pub(super) struct Query(pub(super) HashMap<String, String>);

/// Which part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    limit: usize,
    after: Option<String>,
    ascending: bool,
}

impl Query {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// At most `most` at one time, and `usual` unless the client says how many.
    pub(super) fn page(&self, usual: usize, most: usize) -> Result<Page, RequestError> {
        let limit = match self.text("limit") {
            None => usual,
            Some(given) => {
                let limit = given.parse().ok().filter(|limit| (1..=most).contains(limit));
                limit.ok_or_else(|| invalid("limit", given, &format!("from 1 to {most}")))?
            }
        };
        let ascending = match self.text("order") {
            None | Some("desc") => false,
            Some("asc") => true,
            Some(given) => return Err(invalid("order", given, "'asc' or 'desc'")),
        };
        Ok(Page { limit, after: self.text("after").map(str::to_owned), ascending })
    }
}

fn invalid(name: &'static str, given: &str, expected: &str) -> RequestError {
    let given: String = given.chars().take(64).collect();
    let message = format!("Invalid '{name}': expected {expected}, but got '{given}' instead.");
    RequestError::invalid(name, "invalid_value", message)
}

impl Page {
    /// The page of `objects`, of which the oldest is the first. Each has its `id`.
    pub(super) fn of(&self, mut objects: Vec<Value>) -> Result<Value, RequestError> {
        if !self.ascending {
            objects.reverse();
        }
        let begin = match &self.after {
            None => 0,
            Some(after) => {
                let at = objects.iter().position(|object| object["id"] == after.as_str());
                at.ok_or_else(|| invalid("after", after, "an id of the list"))? + 1
            }
        };
        let has_more = objects.len() > begin + self.limit;
        let data: Vec<Value> = objects.into_iter().skip(begin).take(self.limit).collect();
        let id = |object: Option<&Value>| object.map(|object| object["id"].clone());
        let (first, last) = (id(data.first()), id(data.last()));
        Ok(json!({
            "object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Query {
        Query(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn pages_follow_each_other() {
        let check = |pairs: &[(&str, &str)], expected: &[&str], more: bool| {
            let objects = ["a", "b", "c"].map(|id| json!({ "id": id })).to_vec();
            let page = query(pairs).page(2, 10).unwrap().of(objects).unwrap();
            let ids: Vec<_> = page["data"].as_array().unwrap().iter().map(|o| &o["id"]).collect();
            assert_eq!(ids, expected, "{pairs:?}");
            assert_eq!(page["has_more"], more, "{pairs:?}");
            assert_eq!(page["last_id"].as_str(), expected.last().copied());
        };
        check(&[], &["c", "b"], true);
        check(&[("after", "b")], &["a"], false);
        check(&[("after", "a")], &[], false);
        check(&[("order", "asc"), ("limit", "3")], &["a", "b", "c"], false);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (name, value) in [("limit", "0"), ("limit", "11"), ("limit", "x"), ("order", "up")] {
            let error = query(&[(name, value)]).page(2, 10).unwrap_err();
            assert_eq!(error.param(), Some(name));
        }
        let page = query(&[("after", "../x")]).page(2, 10).unwrap();
        assert_eq!(page.of(Vec::new()).unwrap_err().param(), Some("after"));
    }
}
