use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use baton_types::{Generation, ModelId, NodeHello, NodeId, NodeLoad, NumericsId, Role, Time};

use crate::{Change, Departure, MembershipError};

const MAX_NAME_BYTES: usize = 253;
/// Replaced generations remembered per name.
const MAX_REPLACED: usize = 16;

/// One registration stream. The driver numbers them and never uses a number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What nodes, or their streams, do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The first word of a stream.
    Join {
        session: SessionId,
        hello: NodeHello,
    },
    Heartbeat {
        session: SessionId,
        load: NodeLoad,
    },
    /// The node ended its stream.
    Leave {
        session: SessionId,
    },
    /// The stream broke.
    Lost {
        session: SessionId,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembersConfig {
    /// A node silent for longer is no member any more. Idle nodes speak every second.
    pub lease: Duration,
    pub max_members: usize,
    /// The protocol version spoken here; N and N−1 work together.
    pub protocol_version: u32,
}

/// A member as it is now.
#[derive(Clone, Debug)]
pub struct Member {
    pub hello: Arc<NodeHello>,
    /// Its last heartbeat's; all zero before the first.
    pub load: NodeLoad,
    pub presence: Presence,
    expires: Time,
    heard: Time,
    replaced: VecDeque<Generation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Present {
        session: SessionId,
    },
    /// Its stream was lost.
    Absent,
}

impl Member {
    /// Whether new requests may be sent there.
    pub fn accepts(&self) -> bool {
        !self.load.draining && matches!(self.presence, Presence::Present { .. })
    }
}

/// Everybody in the cluster.
#[derive(Debug)]
pub struct Members {
    config: MembersConfig,
    members: BTreeMap<NodeId, Member>,
    /// Sessions of present members.
    sessions: HashMap<SessionId, NodeId>,
}

impl Members {
    pub fn new(config: MembersConfig) -> Self {
        Members { config, members: BTreeMap::new(), sessions: HashMap::new() }
    }

    /// Takes one word. An error has changed nothing.
    pub fn handle(
        &mut self,
        now: Time,
        input: Input,
        changes: &mut Vec<Change>,
    ) -> Result<(), MembershipError> {
        match input {
            Input::Join { session, hello } => self.join(now, session, hello, changes),
            Input::Heartbeat { session, load } => self.heartbeat(now, session, load, changes),
            Input::Leave { session } => self.leave(session, changes),
            Input::Lost { session } => self.lost(session, changes),
        }
    }

    /// When [`Members::handle_timeout`] has something to do next.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.members.values().map(|member| member.expires).min()
    }

    /// Lets go of those whose lease is over.
    pub fn handle_timeout(&mut self, now: Time, changes: &mut Vec<Change>) {
        let sessions = &mut self.sessions;
        self.members.retain(|node, member| {
            if now < member.expires {
                return true;
            }
            if let Presence::Present { session } = member.presence {
                sessions.remove(&session);
            }
            let why = Departure::Expired { silent: now - member.heard };
            let generation = member.hello.generation;
            changes.push(Change::Left { node: node.clone(), generation, why });
            false
        });
    }

    /// All members, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn member(&self, node: &NodeId) -> Option<&Member> {
        self.members.get(node)
    }

    /// Members of one role for one model.
    pub fn serving<'a>(
        &'a self,
        model: &'a ModelId,
        role: Role,
    ) -> impl Iterator<Item = &'a Member> {
        self.iter().filter(move |member| member.hello.model == *model && member.hello.role == role)
    }

    /// Members that compute the same bits.
    pub fn computing(&self, numerics: NumericsId) -> impl Iterator<Item = &Member> {
        self.iter().filter(move |member| member.hello.numerics == numerics)
    }

    fn join(
        &mut self,
        now: Time,
        session: SessionId,
        hello: NodeHello,
        changes: &mut Vec<Change>,
    ) -> Result<(), MembershipError> {
        self.check_hello(&hello)?;
        if self.sessions.contains_key(&session) {
            return Err(MembershipError::SessionInUse { session });
        }
        let expires = now + self.config.lease;
        let node = hello.node.clone();
        let mut replaced = VecDeque::new();
        if let Some(member) = self.members.get_mut(&node) {
            if member.hello.generation == hello.generation {
                if *member.hello != hello {
                    let generation = hello.generation;
                    return Err(MembershipError::HelloChanged { node, generation });
                }
                match std::mem::replace(&mut member.presence, Presence::Present { session }) {
                    Presence::Present { session: old } => {
                        self.sessions.remove(&old);
                    }
                    Presence::Absent => {
                        let generation = hello.generation;
                        changes.push(Change::Back { node: node.clone(), generation });
                    }
                }
                (member.expires, member.heard) = (expires, now);
                self.sessions.insert(session, node);
                return Ok(());
            }
            replaced = member.replace(now, &hello)?;
            let (generation, by) = (member.hello.generation, hello.generation);
            let why = Departure::Replaced { by };
            changes.push(Change::Left { node: node.clone(), generation, why });
        } else if self.members.len() >= self.config.max_members {
            return Err(MembershipError::Full { members: self.members.len() });
        }
        let hello = Arc::new(hello);
        changes.push(Change::Joined { hello: Arc::clone(&hello) });
        let presence = Presence::Present { session };
        let load = NodeLoad::default();
        let member = Member { hello, load, presence, expires, heard: now, replaced };
        self.sessions.insert(session, node.clone());
        self.members.insert(node, member);
        Ok(())
    }

    fn check_hello(&self, hello: &NodeHello) -> Result<(), MembershipError> {
        let node = &hello.node;
        let (given, max) = (node.0.len(), MAX_NAME_BYTES);
        if given == 0 || given > max {
            return Err(MembershipError::Name { given, max });
        }
        let (given, ours) = (hello.protocol_version, self.config.protocol_version);
        if given.abs_diff(ours) > 1 || given == 0 {
            return Err(MembershipError::Version { node: node.clone(), given, ours });
        }
        Ok(())
    }

    fn heartbeat(
        &mut self,
        now: Time,
        session: SessionId,
        load: NodeLoad,
        changes: &mut Vec<Change>,
    ) -> Result<(), MembershipError> {
        let lease = self.config.lease;
        let (node, member) = self.speaker(session)?;
        if load.draining && !member.load.draining {
            changes.push(Change::Draining { node, generation: member.hello.generation });
        }
        (member.load, member.heard, member.expires) = (load, now, now + lease);
        Ok(())
    }

    fn leave(
        &mut self,
        session: SessionId,
        changes: &mut Vec<Change>,
    ) -> Result<(), MembershipError> {
        let (node, member) = self.speaker(session)?;
        let generation = member.hello.generation;
        self.sessions.remove(&session);
        self.members.remove(&node);
        changes.push(Change::Left { node, generation, why: Departure::Goodbye });
        Ok(())
    }

    fn lost(
        &mut self,
        session: SessionId,
        changes: &mut Vec<Change>,
    ) -> Result<(), MembershipError> {
        let (node, member) = self.speaker(session)?;
        if member.load.draining {
            return self.leave(session, changes);
        }
        member.presence = Presence::Absent;
        changes.push(Change::Absent { node, generation: member.hello.generation });
        self.sessions.remove(&session);
        Ok(())
    }

    fn speaker(&mut self, session: SessionId) -> Result<(NodeId, &mut Member), MembershipError> {
        let over = MembershipError::SessionOver { session };
        let node = self.sessions.get(&session).cloned().ok_or_else(|| over.clone())?;
        let member = self.members.get_mut(&node).ok_or(over)?;
        Ok((node, member))
    }
}

impl Member {
    /// The generations that may not come back, if `newcomer` may have the name.
    fn replace(
        &self,
        now: Time,
        newcomer: &NodeHello,
    ) -> Result<VecDeque<Generation>, MembershipError> {
        let (node, given) = (newcomer.node.clone(), newcomer.generation);
        let holder = self.hello.generation;
        if self.replaced.contains(&given) {
            return Err(MembershipError::Replaced { node, given, current: holder });
        }
        if matches!(self.presence, Presence::Present { .. }) && now < self.expires {
            let lease_left = self.expires - now;
            return Err(MembershipError::NameTaken { node, holder, given, lease_left });
        }
        let mut replaced = self.replaced.clone();
        replaced.push_back(holder);
        if replaced.len() > MAX_REPLACED {
            replaced.pop_front();
        }
        Ok(replaced)
    }
}
