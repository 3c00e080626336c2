//! What the nodes say while they are measured.

use std::{collections::BTreeMap, time::Duration};

use baton_proto::v1::{Node, WatchNodesResponse};
use baton_types::{Role, StepReport};
use tokio::time::timeout;
use tonic::Streaming;

use super::ProfileError;
use crate::client::ClientError;

/// Idle nodes speak once a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// All the nodes of a model, from the moment it was opened.
#[derive(Debug)]
pub(super) struct Watch {
    said: Streaming<WatchNodesResponse>,
    /// So many there are.
    expected: usize,
    nodes: BTreeMap<String, Node>,
    pub(super) steps: Vec<StepReport>,
}

/// What a node said, to tell whether it rests.
#[derive(Clone, Copy, Debug)]
struct Load {
    running: u32,
    waiting: u32,
    steps: usize,
}

impl Watch {
    pub(super) fn new(said: Streaming<WatchNodesResponse>, expected: usize) -> Self {
        Watch { said, expected, nodes: BTreeMap::new(), steps: Vec::new() }
    }

    /// Those of a role.
    pub(super) fn nodes(&self, role: Role) -> Vec<&Node> {
        self.nodes.values().filter(|node| node.role() == Ok(role)).collect()
    }

    /// Listens while something else is done.
    pub(super) async fn during<T>(
        &mut self,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ProfileError> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done?),
                heard = self.hear() => { heard?; }
            }
        }
    }

    /// Waits until every node has spoken twice, the second time of having nothing to do and of having
    /// done nothing since: what it did before has all been told then. Whoever works is working for others.
    pub(super) async fn rest(&mut self) -> Result<(), ProfileError> {
        let mut heard: BTreeMap<String, u32> = BTreeMap::new();
        let resting = async {
            loop {
                let (node, load) = self.hear().await?;
                let times = heard.entry(node.clone()).or_default();
                *times += 1;
                let Load { running, waiting, steps } = load;
                if *times > 1 && (running + waiting > 0 || steps > 0) {
                    return Err(ProfileError::Busy { node, running, waiting, steps });
                }
                if heard.len() >= self.expected && heard.values().all(|times| *times > 1) {
                    return Ok(());
                }
            }
        };
        let rested = timeout(PATIENCE, resting).await;
        rested.unwrap_or(Err(ProfileError::Silent { expected: self.expected, heard: heard.len() }))
    }

    async fn hear(&mut self) -> Result<(String, Load), ProfileError> {
        let report = self.said.message().await.map_err(ClientError::from)?;
        let WatchNodesResponse { node, running, waiting, handing_over, steps } =
            report.ok_or(ClientError::Incomplete)?;
        let node = node.ok_or(ClientError::Incomplete)?;
        let load = Load { running, waiting: waiting + handing_over, steps: steps.len() };
        self.steps.extend(steps.into_iter().map(StepReport::from));
        let name = node.name.clone();
        self.nodes.insert(name.clone(), node);
        Ok((name, load))
    }
}
