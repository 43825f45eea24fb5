#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

const WIDE: Bounds = Bounds { lane: usize::MAX, all: usize::MAX };

fn name(name: &str) -> FacetName {
    FacetName::new(name).unwrap()
}

fn lane(facet: &str) -> LaneKey {
    LaneKey::of(Some(name(facet)))
}

type Texts = Schedule<String>;

/// One call that is named like its facet and number.
fn push(schedule: &mut Texts, facet: &str, number: usize) {
    let post = Post { call: format!("{facet}{number}"), scopes: None };
    schedule.push(&lane(facet), WIDE, post).map_err(|(full, _)| full).unwrap();
}

fn barrier(schedule: &mut Texts, call: &str, scopes: Vec<Scope>) {
    let post = Post { call: call.to_owned(), scopes: Some(scopes.into_boxed_slice()) };
    let lane = post.scopes.as_ref().unwrap()[0].root.clone();
    schedule.push(&lane, WIDE, post).map_err(|(full, _)| full).unwrap();
}

fn subtree(root: &str) -> Scope {
    Scope::subtree(&name(root))
}

fn facet(root: &str) -> Scope {
    Scope::facet(&name(root))
}

fn rest(schedule: &mut Texts) -> String {
    let served: Vec<String> = std::iter::from_fn(|| schedule.next()).collect();
    assert_eq!(schedule.len(), 0);
    assert!(schedule.places.is_empty() && schedule.barriers.is_empty());
    assert!(schedule.subtrees.is_empty());
    served.join(" ")
}

#[test]
fn a_lane_with_much_delays_the_others_by_one_call_each() {
    let mut schedule = Texts::default();
    for facet in ["a", "b"] {
        (0..10_000).for_each(|number| push(&mut schedule, facet, number));
    }
    assert_eq!(schedule.next().unwrap(), "a0");
    push(&mut schedule, "c", 0);
    push(&mut schedule, "d", 0);
    push(&mut schedule, "d", 1);
    let served: Vec<_> = (0..7).map(|_| schedule.next().unwrap()).collect();
    assert_eq!(served.join(" "), "b0 c0 d0 a1 b1 d1 a2");
    // One that has just been served and comes again does not get before the others.
    push(&mut schedule, "a", 10_000);
    push(&mut schedule, "e", 0);
    assert_eq!(schedule.next().unwrap(), "b2");
    assert_eq!(schedule.next().unwrap(), "e0");
    assert_eq!(schedule.next().unwrap(), "a3");
    assert_eq!(schedule.len(), 20_000 + 5 - 11);
}

#[test]
fn a_lane_keeps_its_order() {
    let mut schedule = Texts::default();
    for number in 0..3 {
        push(&mut schedule, "a", number);
        push(&mut schedule, "b", number);
    }
    assert_eq!(rest(&mut schedule), "a0 b0 a1 b1 a2 b2");
}

#[test]
fn a_barrier_comes_after_what_was_there_and_before_what_follows() {
    let mut schedule = Texts::default();
    push(&mut schedule, "t/1", 0);
    push(&mut schedule, "t/2", 0);
    push(&mut schedule, "t/2", 1);
    push(&mut schedule, "u", 0);
    barrier(&mut schedule, "delete-t", vec![subtree("t")]);
    push(&mut schedule, "t/1", 1);
    push(&mut schedule, "t/3", 0);
    push(&mut schedule, "t", 0);
    push(&mut schedule, "u", 1);
    push(&mut schedule, "u", 2);
    push(&mut schedule, "u", 3);
    let order = "t/10 t/20 u0 t/21 u1 delete-t u2 t0 t/30 t/11 u3";
    assert_eq!(rest(&mut schedule), order);
}

#[test]
fn a_barrier_on_idle_names_has_its_turn_like_a_call() {
    let mut schedule = Texts::default();
    (0..2).for_each(|number| push(&mut schedule, "a", number));
    barrier(&mut schedule, "fork", vec![facet("b"), facet("c")]);
    push(&mut schedule, "c", 0);
    push(&mut schedule, "b", 0);
    push(&mut schedule, "d", 0);
    assert_eq!(rest(&mut schedule), "a0 fork d0 a1 b0 c0");
}

#[test]
fn barriers_with_a_name_in_common_keep_their_order() {
    let mut schedule = Texts::default();
    push(&mut schedule, "x", 0);
    push(&mut schedule, "x", 1);
    barrier(&mut schedule, "x-to-y", vec![subtree("x"), subtree("y")]);
    barrier(&mut schedule, "y-to-z", vec![subtree("y"), subtree("z")]);
    // Within y, though its own name is no other's.
    barrier(&mut schedule, "y/1-to-w", vec![facet("y/1"), facet("w")]);
    push(&mut schedule, "y/1", 0);
    push(&mut schedule, "y/2", 0);
    push(&mut schedule, "z/1", 0);
    assert_eq!(rest(&mut schedule), "x0 x1 x-to-y y-to-z z/10 y/1-to-w y/20 y/10");
}

#[test]
fn a_subtree_around_a_pending_barrier_waits_for_it() {
    let mut schedule = Texts::default();
    push(&mut schedule, "a/b", 0);
    push(&mut schedule, "a/b", 1);
    barrier(&mut schedule, "fork-a/b", vec![facet("a/b"), facet("c")]);
    barrier(&mut schedule, "delete-a", vec![subtree("a")]);
    push(&mut schedule, "a/b", 2);
    push(&mut schedule, "c", 0);
    assert_eq!(rest(&mut schedule), "a/b0 a/b1 fork-a/b c0 delete-a a/b2");
}

#[test]
fn a_hold_stops_a_subtree_until_it_ends() {
    let mut schedule = Texts::default();
    push(&mut schedule, "a/1", 0);
    let hold = schedule.hold(Box::new([subtree("a")]));
    push(&mut schedule, "a/1", 1);
    push(&mut schedule, "a/2", 0);
    barrier(&mut schedule, "delete-a", vec![subtree("a")]);
    push(&mut schedule, "a/2", 1);
    push(&mut schedule, "b", 0);
    let served: Vec<_> = std::iter::from_fn(|| schedule.next()).collect();
    assert_eq!(served, ["a/10", "b0"]);
    assert!(!schedule.is_empty());
    schedule.let_go(hold);
    assert_eq!(rest(&mut schedule), "a/20 a/11 delete-a a/21");
    // Lanes that begin when it has ended, but its turn has not come, do not confuse it.
    let hold = schedule.hold(Box::new([subtree("a")]));
    schedule.let_go(hold);
    push(&mut schedule, "a/1", 0);
    push(&mut schedule, "a/2", 0);
    push(&mut schedule, "b", 0);
    assert_eq!(rest(&mut schedule), "b0 a/10 a/20");
    barrier(&mut schedule, "delete-a", vec![subtree("a")]);
    push(&mut schedule, "a/1", 0);
    push(&mut schedule, "a/2", 0);
    push(&mut schedule, "b", 0);
    assert_eq!(rest(&mut schedule), "delete-a b0 a/10 a/20");
    // One that ends before what was there is served.
    push(&mut schedule, "a/1", 0);
    let hold = schedule.hold(Box::new([subtree("a")]));
    push(&mut schedule, "a/3", 0);
    schedule.let_go(hold);
    schedule.let_go(hold);
    assert_eq!(rest(&mut schedule), "a/10 a/30");
}

#[test]
fn a_turn_can_be_longer_up_to_a_mark() {
    let mut schedule = Texts::default();
    (0..3).for_each(|number| push(&mut schedule, "a", number));
    push(&mut schedule, "b", 0);
    barrier(&mut schedule, "delete-a", vec![subtree("a")]);
    push(&mut schedule, "a", 3);
    assert_eq!(schedule.next_of_turn(|_| true), None, "nobody has the turn");
    assert_eq!(schedule.next().unwrap(), "a0");
    assert!(schedule.has_next_of_turn(|call| call == "a1"));
    assert_eq!(schedule.next_of_turn(|call| call != "a1"), None);
    assert_eq!(schedule.next_of_turn(|_| true).unwrap(), "a1");
    assert_eq!(schedule.next_of_turn(|_| true).unwrap(), "a2");
    assert_eq!(schedule.next_of_turn(|_| true), None);
    assert!(!schedule.has_next_of_turn(|_| true));
    assert_eq!(rest(&mut schedule), "b0 delete-a a3");
}

#[test]
fn calls_of_no_facet_have_a_lane() {
    let mut schedule = Texts::default();
    (0..2).for_each(|number| push(&mut schedule, "a", number));
    let post = Post { call: "stat".to_owned(), scopes: None };
    assert!(schedule.push(&LaneKey::of(None), WIDE, post).is_ok());
    assert_eq!(rest(&mut schedule), "a0 stat a1");
}

#[test]
fn bounds_hold_and_never_keep_out_who_has_nothing_waiting() {
    let mut schedule = Texts::default();
    let bounds = Bounds { lane: 3, all: 4 };
    let mut try_push = |facet: &str| {
        let post = Post { call: facet.to_owned(), scopes: None };
        schedule.push(&lane(facet), bounds, post).map_err(|(full, post)| (full, post.call))
    };
    for _ in 0..3 {
        try_push("a").unwrap();
    }
    assert_eq!(try_push("a").unwrap_err(), (Full::Facet, "a".to_owned()));
    try_push("b").unwrap();
    assert_eq!(try_push("b").unwrap_err().0, Full::Core);
    for stranger in 0..1_000 {
        try_push(&format!("stranger-{stranger}")).unwrap();
    }
    assert_eq!(schedule.len(), 1_004);
    let served: Vec<_> = (0..1_004).map(|_| schedule.next().unwrap()).collect();
    assert_eq!(served[..3], ["a", "b", "stranger-0"]);
    assert_eq!(served[1_001..], ["stranger-999", "a", "a"]);
}

#[test]
fn who_waits_for_room_is_told_when_half_of_the_lane_is_free() {
    let mut schedule = Texts::default();
    (0..4).for_each(|number| push(&mut schedule, "a", number));
    schedule.lanes[0].bound = 4;
    schedule.await_room(&lane("a"), Waker::noop());
    schedule.await_room(&lane("a"), Waker::noop());
    schedule.next().unwrap();
    assert!(schedule.take_woken().is_empty());
    schedule.next().unwrap();
    assert_eq!(schedule.take_woken().len(), 1, "the same one is told once");
    assert_eq!(rest(&mut schedule), "a2 a3");
}

#[test]
fn draining_gives_out_everything() {
    let mut schedule = Texts::default();
    push(&mut schedule, "a", 0);
    push(&mut schedule, "a", 1);
    schedule.await_room(&lane("a"), Waker::noop());
    barrier(&mut schedule, "delete-a", vec![subtree("a")]);
    assert_eq!(schedule.next().unwrap(), "a0");
    let (mut calls, wakers) = schedule.drain();
    calls.sort();
    assert_eq!((calls.join(" ").as_str(), wakers.len()), ("a1 delete-a", 1));
    assert_eq!(schedule.len(), 0);
}

/// Any mix of calls, barriers and holds: nothing is lost, and of any two that have a name in common
/// the one that came first is served first.
#[test]
fn whatever_comes_keeps_the_order_of_names_in_common() {
    const NAMES: [&str; 7] = ["a", "a/1", "a/2", "a/2/x", "b", "b/1", "c"];
    for seed in 0..400_u64 {
        let mut state = seed;
        let mut random = |below: usize| {
            // The finalizer of SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            usize::try_from((mixed ^ (mixed >> 27)) >> 33).unwrap() % below
        };
        let mut schedule = Schedule::<usize>::default();
        let mut scopes_of: Vec<Vec<Scope>> = Vec::new();
        let mut holds = Vec::new();
        let mut served = Vec::new();
        for _ in 0..120 {
            let number = scopes_of.len();
            let scope = |random: &mut dyn FnMut(usize) -> usize| {
                let name = name(NAMES[random(NAMES.len())]);
                if random(2) == 0 { Scope::facet(&name) } else { Scope::subtree(&name) }
            };
            match random(10) {
                0..4 => {
                    let lane = lane(NAMES[random(NAMES.len())]);
                    scopes_of.push(vec![Scope { root: lane.clone(), below: false }]);
                    let post = Post { call: number, scopes: None };
                    assert!(schedule.push(&lane, WIDE, post).is_ok());
                }
                4 => {
                    let scopes = vec![scope(&mut random), scope(&mut random)];
                    let lane = scopes[0].root.clone();
                    let post = Post { call: number, scopes: Some(scopes.clone().into()) };
                    scopes_of.push(scopes);
                    assert!(schedule.push(&lane, WIDE, post).is_ok());
                }
                5 => holds.push(schedule.hold([scope(&mut random)].into())),
                6 if !holds.is_empty() => {
                    schedule.let_go(holds.swap_remove(random(holds.len())));
                }
                _ => served.extend(schedule.next()),
            }
        }
        holds.into_iter().for_each(|hold| schedule.let_go(hold));
        served.extend(std::iter::from_fn(|| schedule.next()));
        assert_eq!((served.len(), schedule.len()), (scopes_of.len(), 0), "seed {seed}");
        let meet = |one: usize, other: usize| {
            let meets =
                |one: &Scope, other: &Scope| one.covers(&other.root) || other.covers(&one.root);
            let others = &scopes_of[other];
            scopes_of[one].iter().any(|one| others.iter().any(|other| meets(one, other)))
        };
        for (at, &later) in served.iter().enumerate() {
            for &earlier in &served[at + 1..] {
                assert!(
                    earlier > later || !meet(earlier, later),
                    "seed {seed}: {later} before {earlier}"
                );
            }
        }
    }
}
