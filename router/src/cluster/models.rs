//! What is served, and in which language.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use baton_grammar::Grammars;
use baton_node::task;
use baton_policy::{Group, Refusal};
use baton_proto::node::v1 as node;
use baton_text::{TextAssets, TextError, TextModel};
use baton_types::{ModelId, NumericsId, Role};
use prost::Message;

use super::{Cluster, JoinError};
use crate::error::RequestError;

/// Nodes that live find a new router within it.
const SOON: Duration = Duration::from_secs(1);

/// One model's tokeniser, chat template and detokeniser, as its first node brought them.
#[derive(Clone, Debug)]
pub(crate) struct Language {
    hash: blake3::Hash,
    pub(crate) text: Arc<TextModel>,
    pub(crate) grammars: Arc<Grammars>,
    /// Unix time at which the model was first seen.
    pub(crate) since: u64,
}

/// A model that is known here.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) model: ModelId,
    pub(crate) text: Arc<TextModel>,
    pub(crate) grammars: Arc<Grammars>,
    pub(crate) since: u64,
    /// The nodes that have it now, in groups that can work together. Empty: none has.
    pub(crate) groups: Vec<ServedGroup>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServedGroup {
    pub(crate) numerics: NumericsId,
    pub(crate) block_tokens: u32,
    /// Prompt and output together, in tokens.
    pub(crate) max_context: u32,
    pub(crate) prefill_nodes: u32,
    pub(crate) decode_nodes: u32,
}

impl Cluster {
    /// The language of a model, built unless it is here already.
    pub(super) async fn language(
        &self,
        model: &ModelId,
        assets: node::TextAssets,
    ) -> Result<Language, JoinError> {
        let hash = blake3::hash(&assets.encode_to_vec());
        let known = || self.lock().languages.get(model).filter(|l| l.hash == hash).cloned();
        if let Some(language) = known() {
            return Ok(language);
        }
        let _turn = self.building.lock().await;
        if let Some(language) = known() {
            return Ok(language);
        }
        let assets = TextAssets::try_from(assets)?;
        let building = tokio::task::spawn_blocking(|| TextModel::new(assets));
        let text = building.await.map_err(|error| TextError::Tokenizer { why: error.to_string() });
        let text = Arc::new(text.flatten().map_err(JoinError::Text)?);
        let since = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let grammars = Arc::new(Grammars::new(Arc::clone(&text)));
        Ok(Language { hash, text, grammars, since })
    }

    /// Everything about one model, if it was ever served.
    pub(crate) fn served(&self, model: &ModelId) -> Option<Served> {
        let state = self.lock();
        let language = state.languages.get(model)?;
        Some(state.served(model, language))
    }

    /// Why nothing is known of a model. To a router that nobody has joined since its start all are unknown, and no client
    /// should take that for an answer.
    pub(crate) fn unknown(&self, model: String) -> RequestError {
        if !self.lock().languages.is_empty() {
            return RequestError::UnknownModel { model };
        }
        let (model, role) = (ModelId::from(model.as_str()), Role::Prefill);
        RequestError::Policy(Refusal::NoNodes { model, role, retry_after: SOON })
    }

    /// The models that have nodes now.
    pub(crate) fn all_served(&self) -> Vec<Served> {
        let state = self.lock();
        let all = state.languages.iter().map(|(model, language)| state.served(model, language));
        all.filter(|served| !served.groups.is_empty()).collect()
    }
}

impl super::State {
    /// Takes a model's language in. Another one than its living nodes speak is refused.
    pub(super) fn learn(&mut self, model: &ModelId, language: Language) -> Result<(), JoinError> {
        if let Some(known) = self.languages.get(model) {
            if known.hash == language.hash {
                return Ok(());
            }
            let mut living = self.sessions.values().map(|member| &member.peer.hello);
            if let Some(other) = living.find(|hello| hello.model == *model) {
                let (model, node) = (model.clone(), other.node.clone());
                return Err(JoinError::OtherLanguage { model, node });
            }
        }
        let grammars = Arc::clone(&language.grammars);
        task::background("grammars", move || grammars.prepare());
        self.languages.insert(model.clone(), language);
        Ok(())
    }

    fn served(&self, model: &ModelId, language: &Language) -> Served {
        let mut groups: BTreeMap<NumericsId, Vec<(Group, ServedGroup, [u32; 2])>> = BTreeMap::new();
        for role in [Role::Prefill, Role::Decode] {
            for view in
                self.placer.view().nodes(role).iter().filter(|view| view.group.model == *model)
            {
                let same = groups.entry(view.group.numerics).or_default();
                let at = same.iter().position(|(group, ..)| *group == view.group);
                let at = at.unwrap_or_else(|| {
                    same.push((view.group.clone(), ServedGroup::new(&view.group), [0; 2]));
                    same.len() - 1
                });
                let (_, served, longest) = &mut same[at];
                let (nodes, longest, most) = match role {
                    Role::Prefill => (&mut served.prefill_nodes, &mut longest[0], view.max_context),
                    Role::Decode => {
                        (&mut served.decode_nodes, &mut longest[1], view.max_decode_tokens())
                    }
                };
                *nodes += 1;
                *longest = most.max(*longest);
            }
        }
        let whole = |(_, served, longest): (Group, ServedGroup, [u32; 2])| {
            let known = longest.into_iter().filter(|most| *most > 0).min();
            ServedGroup { max_context: known.unwrap_or(0), ..served }
        };
        Served {
            model: model.clone(),
            text: Arc::clone(&language.text),
            grammars: Arc::clone(&language.grammars),
            since: language.since,
            groups: groups.into_values().flatten().map(whole).collect(),
        }
    }
}

impl ServedGroup {
    fn new(group: &Group) -> Self {
        ServedGroup {
            numerics: group.numerics,
            block_tokens: group.layout.block_tokens,
            max_context: 0,
            prefill_nodes: 0,
            decode_nodes: 0,
        }
    }
}

impl Served {
    /// The most tokens, prompt and output together, that any of its groups takes.
    pub(crate) fn max_context(&self) -> u32 {
        let whole = self.groups.iter().filter(|g| g.prefill_nodes > 0 && g.decode_nodes > 0);
        let most = whole.map(|group| group.max_context).max();
        most.or(self.groups.iter().map(|group| group.max_context).max()).unwrap_or(0)
    }
}
