//! Queries that take time.

use std::sync::Arc;

use super::{Arrival, Block, Engine, Later, Scratch, Step, Waiting, limits};
use crate::answer::{self, Follow, Query, Refusal};
use crate::cache::{CacheKey, Stored};
use crate::forward::{ForwardError, Forwarder, query_for};
use crate::metrics::Plugin;
use crate::wire::rcode;

/// How deep names that lead elsewhere are followed.
const DEEPEST: usize = 4;

/// What an upstream, or the cache, said.
pub(super) struct Fetched {
    stored: Arc<Stored>,
    /// For how long it was there; none for an answer that has ended.
    age: Option<u32>,
}

impl Engine {
    /// Answers a query that takes time; the response is in the scratch.
    pub async fn wait(self: &Arc<Self>, waiting: Waiting, scratch: &mut Scratch) {
        let Waiting { bytes, arrival, block, kind, began } = waiting;
        // The block may have gone in the meantime; the query is still answered by it.
        let limits = limits(arrival.transport, std::slice::from_ref(&block));
        let Ok(query) = Query::read(&bytes, limits) else { return scratch.out.clear() };
        let (plugin, code) = match kind {
            Later::Forward(forwarder) => {
                let code = self.forwarded(&query, arrival, &block, &forwarder, scratch).await;
                (Plugin::Forward, code)
            }
            Later::Follow(follow) => {
                let code = self.followed(&query, arrival, &block, &follow, scratch).await;
                (Plugin::Kubernetes, code)
            }
        };
        self.note(&block, &query, arrival, (plugin, code), began, &scratch.out);
    }

    async fn forwarded(
        self: &Arc<Self>,
        query: &Query<'_>,
        arrival: Arrival,
        block: &Arc<Block>,
        forwarder: &Arc<Forwarder>,
        scratch: &mut Scratch,
    ) -> u16 {
        match self.fetch(query.bytes, arrival, block, forwarder).await {
            Ok(fetched) => {
                self.give(&fetched.stored, query, fetched.age, block, scratch);
                fetched.stored.rcode
            }
            Err(e) => {
                if block.errors {
                    let name = query.name();
                    tracing::error!("{name} type {}: {e}", query.qtype);
                }
                let refusal = match e {
                    ForwardError::Full => Refusal::Refused,
                    ForwardError::NoAnswer => Refusal::ServFail,
                };
                answer::refuse(query, refusal, &mut scratch.out)
            }
        }
    }

    /// Asks an upstream and remembers what it says; where it fails, an ended answer is given.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        bytes: &[u8],
        arrival: Arrival,
        block: &Arc<Block>,
        forwarder: &Arc<Forwarder>,
    ) -> Result<Fetched, ForwardError> {
        let limits = limits(arrival.transport, std::slice::from_ref(block));
        let key = Query::read(bytes, limits).ok().map(|query| CacheKey::of(&query));
        let asked = forwarder.ask(bytes, arrival.transport).await;
        let response = asked.as_ref().ok().and_then(|response| Stored::once(response));
        let is_failure = response.as_ref().is_none_or(|response| response.rcode == rcode::SERVFAIL);
        if let (Some(cache), Some(key)) = (&block.cache, &key)
            && is_failure
        {
            cache.give_up(key);
            let stale = cache.settings.serve_stale.and_then(|_| cache.get(key, self.now()));
            cache.give_up(key);
            if let Some(hit) = stale {
                return Ok(Fetched { stored: hit.stored, age: None });
            }
        }
        let (asked, response) = (asked?, response.ok_or(ForwardError::NoAnswer)?);
        let kept = match (&block.cache, key) {
            (Some(cache), Some(key)) => cache.put(key, &asked, self.now()),
            _ => None,
        };
        // What is remembered holds no longer for the first client than for the next.
        Ok(Fetched { stored: kept.unwrap_or_else(|| Arc::new(response)), age: Some(0) })
    }

    /// The answer of a name that leads out of the zone, looked up as any client's question is.
    async fn followed(
        self: &Arc<Self>,
        query: &Query<'_>,
        arrival: Arrival,
        block: &Arc<Block>,
        follow: &Follow,
        scratch: &mut Scratch,
    ) -> u16 {
        let Some(authority) = &block.authority else {
            return answer::refuse(query, Refusal::ServFail, &mut scratch.out);
        };
        let mut aliases = follow.aliases.clone();
        let mut records = None;
        for _ in 0..DEEPEST {
            let Some((_, target)) = aliases.last() else { break };
            let mut bytes = query_for(target, query.qtype);
            bytes[2..4].copy_from_slice(&(query.header.flags & 0x0110 | 0x0100).to_be_bytes());
            // Over TCP nothing is cut on the way from us to ourselves.
            let inner = Arrival { transport: crate::forward::Transport::Tcp, ..arrival };
            match self.step_inside(&bytes, inner, scratch) {
                Inside::Done => {
                    records = Stored::once(&scratch.out);
                    break;
                }
                Inside::Follow(next) => aliases.extend(next.aliases),
                Inside::Forward(next, forwarder) => {
                    let inner = Arrival { transport: arrival.transport, ..inner };
                    if let Ok(fetched) = self.fetch(&bytes, inner, &next, &forwarder).await {
                        let Fetched { stored, age } = fetched;
                        let age = age.unwrap_or(u32::MAX);
                        return self.complete(
                            query,
                            (follow, aliases),
                            &stored,
                            age,
                            scratch,
                            authority,
                        );
                    }
                    break;
                }
            }
        }
        match records {
            Some(stored) => self.complete(query, (follow, aliases), &stored, 0, scratch, authority),
            None => answer::refuse(query, Refusal::ServFail, &mut scratch.out),
        }
    }

    fn complete(
        &self,
        query: &Query<'_>,
        (follow, aliases): (&Follow, Vec<(crate::wire::Name, crate::wire::Name)>),
        stored: &Stored,
        age: u32,
        scratch: &mut Scratch,
        authority: &answer::Authority,
    ) -> u16 {
        if !matches!(stored.rcode, rcode::NOERROR | rcode::NXDOMAIN) {
            // Nothing is known about the target; to say that it has no addresses would be wrong.
            return answer::refuse(query, Refusal::ServFail, &mut scratch.out);
        }
        let follow = Follow { aliases, ..*follow };
        let snapshot = self.snapshot.load();
        let records = stored.answers(age);
        answer::complete(query, &follow, &records, (&snapshot, authority), &mut scratch.out)
    }

    /// As a step, for a question of our own.
    fn step_inside(
        self: &Arc<Self>,
        bytes: &[u8],
        arrival: Arrival,
        scratch: &mut Scratch,
    ) -> Inside {
        match self.step(bytes, arrival, scratch) {
            Step::Wait(waiting) => match waiting.kind {
                Later::Forward(forwarder) => Inside::Forward(waiting.block, forwarder),
                Later::Follow(follow) => Inside::Follow(follow),
            },
            Step::Reply | Step::Drop => Inside::Done,
        }
    }
}

enum Inside {
    Done,
    Follow(Follow),
    Forward(Arc<Block>, Arc<Forwarder>),
}
