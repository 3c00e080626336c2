use crate::{
    Chunk, Complete, Event, FinishReason, Started, Timings, TokenLogprobs, ToolCall, Usage,
};

/// A stream, gathered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub started: Started,
    /// In their own order; at least one.
    pub choices: Vec<Choice>,
    /// How often the stream went on at another connection.
    pub resumed: u32,
}

/// One answer of those that were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    pub text: String,
    pub token_ids: Vec<u32>,
    /// Digests of the raw logits that each token was drawn from.
    pub logits_digests: Vec<u64>,
    /// One for each token, if they were asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Of the prompt's tokens but the first, with the first choice, if they were asked for.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Calls of tools, by their index.
    pub tool_calls: Vec<ToolCall>,
    pub complete: Complete,
}

impl Answer {
    /// The first choice's.
    pub fn text(&self) -> &str {
        self.choices.first().map_or("", |choice| &choice.text)
    }

    /// The router's name for it, the latest.
    pub fn request_id(&self) -> &str {
        &self.started.request_id
    }

    /// Of all choices; the prompt counts once.
    pub fn usage(&self) -> Usage {
        let all = || self.choices.iter().filter_map(|choice| choice.complete.usage);
        let first = all().next().unwrap_or_default();
        Usage { completion_tokens: all().map(|usage| usage.completion_tokens).sum(), ..first }
    }

    /// Where the first choice's time went, at the router where it ended.
    pub fn timings(&self) -> Option<&Timings> {
        self.choices.first()?.complete.timings.as_ref()
    }

    pub(crate) fn hear(&mut self, event: Event) {
        match event {
            Event::Started(started) => self.started = started,
            Event::Chunk(chunk) => self.choice(chunk.choice).hear(chunk),
            Event::Complete(complete) => {
                let choice = self.choice(complete.choice);
                choice.complete = complete;
            }
        }
    }

    fn choice(&mut self, index: u32) -> &mut Choice {
        let index = index as usize;
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Choice::default);
        }
        &mut self.choices[index]
    }
}

impl Choice {
    pub fn finish_reason(&self) -> FinishReason {
        self.complete.finish_reason()
    }

    fn hear(&mut self, chunk: Chunk) {
        self.text += &chunk.text;
        self.token_ids.extend(chunk.token_ids);
        self.logits_digests.extend(chunk.logits_digests);
        self.logprobs.extend(chunk.logprobs);
        self.prompt_logprobs.extend(chunk.prompt_logprobs);
        for piece in chunk.tool_calls {
            match self.tool_calls.iter_mut().find(|call| call.index == piece.index) {
                Some(call) => call.arguments += &piece.arguments,
                None => self.tool_calls.push(piece),
            }
        }
    }
}
