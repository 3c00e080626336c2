use baton_fake_kubernetes::{FakeKubernetes, Fault};
use baton_registry::Announced;
use futures::future::select_all;
use tokio::task::JoinSet;

use crate::{Client, SERVICE, until};

fn leads(router: &Announced) -> bool {
    *router.fellows.leads.borrow()
}

/// Waits until one leads, and says which.
async fn leader(routers: &[Announced]) -> usize {
    let leading = routers
        .iter()
        .map(|router| Box::pin(until("it leads", &router.fellows.leads, |&leads| leads)));
    select_all(leading).await.1
}

/// Counts leaders, whenever one comes or goes.
struct Count(JoinSet<()>);

impl Count {
    fn of(routers: &[Announced]) -> Self {
        let all: Vec<_> = routers.iter().map(|router| router.fellows.leads.clone()).collect();
        let mut tasks = JoinSet::new();
        for mut one in all.clone() {
            let all = all.clone();
            tasks.spawn(async move {
                while one.changed().await.is_ok() {
                    // The dead don't say that they lead no more.
                    let alive = all.iter().filter(|leads| leads.has_changed().is_ok());
                    assert!(alive.filter(|leads| *leads.borrow()).count() <= 1, "two lead");
                }
            });
        }
        Count(tasks)
    }

    fn was_never_two(mut self) {
        while let Some(ended) = self.0.try_join_next() {
            ended.unwrap();
        }
    }
}

fn record() -> String {
    format!("{SERVICE}-leader")
}

#[tokio::test]
async fn a_router_that_dies_or_leaves_is_followed_by_another() {
    let api = FakeKubernetes::start().unwrap();
    let client = Client::of(&api);
    let mut routers: Vec<Announced> = (1..=3).map(|id| client.router(id)).collect();
    let count = Count::of(&routers);

    let first = leader(&routers).await;
    assert_eq!(api.holder(&record()), Some(format!("{:016x}", first + 1)));
    // As a process that is killed: nothing is said.
    drop(routers.remove(first));
    let second = leader(&routers).await;
    let before = api.holder(&record());
    routers.remove(second).leave().await;
    assert_ne!(api.holder(&record()), before, "it was released, so that nobody waits for its end");
    leader(&routers).await;
    routers.remove(0).leave().await;
    assert_eq!(api.holder(&record()), None, "nobody is left to have it");
    count.was_never_two();
}

/// Cut off in two ways: refused, and unanswered.
#[tokio::test]
async fn a_leader_that_is_cut_off_stops_before_another_one_begins() {
    for is_silent in [false, true] {
        let api = FakeKubernetes::start().unwrap();
        let mut clients = [Client::of(&api), Client::of(&api)];
        let routers: Vec<Announced> =
            (1..).zip(&clients).map(|(id, client)| client.router(id)).collect();
        let count = Count::of(&routers);
        let first = leader(&routers).await;
        if is_silent {
            clients[first].door.set_fault(Fault::Hang);
        } else {
            clients[first].door.stop();
        }
        until("the other leads", &routers[1 - first].fellows.leads, |&leads| leads).await;
        assert!(!leads(&routers[first]));
        // It comes back, and is a candidate like any other.
        if is_silent {
            clients[first].door.set_fault(Fault::None);
        } else {
            clients[first].door.restart().unwrap();
        }
        let mut routers = routers;
        routers.remove(1 - first).leave().await;
        until("it leads again", &routers[0].fellows.leads, |&leads| leads).await;
        count.was_never_two();
    }
}

#[tokio::test]
async fn while_the_api_server_is_away_nobody_leads_and_after_it_one_does() {
    let api = FakeKubernetes::start().unwrap();
    let mut client = Client::of(&api);
    let routers: Vec<Announced> = (1..=3).map(|id| client.router(id)).collect();
    let count = Count::of(&routers);
    for is_emptied in [false, true] {
        let first = leader(&routers).await;
        client.door.stop();
        until("it stops", &routers[first].fellows.leads, |&leads| !leads).await;
        assert!(!routers.iter().any(leads));
        if is_emptied {
            api.wipe();
        }
        client.door.restart().unwrap();
        leader(&routers).await;
    }
    count.was_never_two();
}

/// The one who led doesn't know yet, and the next one waits as if it did.
#[tokio::test]
async fn a_record_that_is_deleted_makes_no_two_leaders() {
    let api = FakeKubernetes::start().unwrap();
    let client = Client::of(&api);
    let routers: Vec<Announced> = (1..=3).map(|id| client.router(id)).collect();
    let count = Count::of(&routers);
    let first = leader(&routers).await;
    api.delete("leases", &record());
    until("it stops", &routers[first].fellows.leads, |&leads| !leads).await;
    leader(&routers).await;
    count.was_never_two();
}
