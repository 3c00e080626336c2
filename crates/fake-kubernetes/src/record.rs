//! What an API server once said, word by word.

use std::{collections::VecDeque, fs, path::Path};

use anyhow::Context;
use serde_json::Value;

/// Lists and events, as they were sent. A line is said when it is released.
#[derive(Debug)]
pub(crate) struct Record {
    lines: VecDeque<Value>,
    released: usize,
}

impl Record {
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let lines = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        Ok(Record { lines: lines.with_context(|| file.display().to_string())?, released: 0 })
    }

    /// Lets the next line be said; none is left: false.
    pub(crate) fn release(&mut self) -> bool {
        let is_there = self.released < self.lines.len();
        self.released += usize::from(is_there);
        is_there
    }

    /// The list that comes next, if it may be said.
    pub(crate) fn list(&mut self) -> Option<Value> {
        self.next(|line| line["kind"] == "EndpointSliceList")
    }

    /// The event that comes next, if it may be said.
    pub(crate) fn event(&mut self) -> Option<Value> {
        self.next(|line| line["type"].is_string())
    }

    fn next(&mut self, is_it: impl Fn(&Value) -> bool) -> Option<Value> {
        if self.released == 0 || !self.lines.front().is_some_and(is_it) {
            return None;
        }
        self.released -= 1;
        self.lines.pop_front()
    }
}
