//! Appending, reading and following records through the public API.

use std::{thread, time::Duration};

use counterfoil::{Cursor, Durability, ErrorKind, LogId, Seq, Space, Store};

fn assert_handle<T: Send + Sync + Clone + 'static>() {}
fn assert_sendable<T: Send + 'static>() {}

#[test]
fn handles_go_to_any_thread_and_are_cheap_to_clone() {
    assert_handle::<Store>();
    assert_handle::<Space>();
    assert_handle::<counterfoil::Typed<String>>();
    assert_handle::<counterfoil::Receipt>();
    assert_handle::<counterfoil::LocalLink>();
    #[cfg(feature = "net")]
    {
        assert_handle::<counterfoil::Link>();
        assert_handle::<counterfoil::Server>();
        assert_handle::<counterfoil::Tls>();
    }
    assert_sendable::<counterfoil::Read>();
    assert_sendable::<counterfoil::Follow>();
    assert_sendable::<counterfoil::FollowStream>();
    assert_sendable::<counterfoil::Durable>();
    assert_sendable::<counterfoil::LinkEvents>();
    assert_sendable::<counterfoil::Error>();
}

fn bodies(read: impl Iterator<Item = counterfoil::Result<counterfoil::Record>>) -> Vec<String> {
    read.map(|record| String::from_utf8(record.unwrap().body().to_vec()).unwrap()).collect()
}

#[test]
fn records_read_back_in_order_by_any_range() {
    let store = Store::builder().node("practice-12").in_memory().unwrap();
    let space = store.space("practice-12").unwrap();
    assert_eq!(bodies(space.read(..).unwrap()), [""; 0], "no log yet");
    assert_eq!(space.own_log(), None);

    let receipt = space.append("a").unwrap();
    assert_eq!((receipt.first_seq(), receipt.next_seq()), (Seq(0), Seq(1)));
    let receipt = space.append_all(&["b", "c", "d"]).unwrap();
    assert_eq!((receipt.first_seq(), receipt.next_seq()), (Seq(1), Seq(4)));
    space.try_append("e").unwrap().wait(Durability::Local).unwrap();

    assert_eq!(bodies(space.read(..).unwrap()), ["a", "b", "c", "d", "e"]);
    assert_eq!(bodies(space.read(Seq(1)..Seq(3)).unwrap()), ["b", "c"]);
    assert_eq!(bodies(space.read(Seq(3)..).unwrap()), ["d", "e"]);
    assert_eq!(bodies(space.read(..=Seq(0)).unwrap()), ["a"]);
    assert_eq!(bodies(space.read(Seq(5)..).unwrap()), [""; 0]);
    assert_eq!(bodies(space.read(Seq(3)..Seq(1)).unwrap()), [""; 0]);

    let log = space.own_log().unwrap();
    assert_eq!(bodies(space.read_log(log, Seq(4)..).unwrap()), ["e"]);
    let record = space.read(Seq(2)..).unwrap().next().unwrap().unwrap();
    assert_eq!((record.seq(), record.log(), record.node().as_str()), (Seq(2), log, "practice-12"));
}

#[test]
fn spaces_of_one_store_are_apart() {
    let store = Store::in_memory().unwrap();
    let [one, two] = ["one", "two"].map(|name| store.space(name).unwrap());
    one.append("1").unwrap();
    two.append("2").unwrap();
    store.commit().unwrap();
    assert_eq!(bodies(one.read(..).unwrap()), ["1"]);
    assert_eq!(bodies(two.read(..).unwrap()), ["2"]);
    let foreign = one.read_log(two.own_log().unwrap(), ..).unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::NotFound);
    let names: Vec<_> = store.spaces().iter().map(|space| space.name().to_string()).collect();
    assert_eq!(names, ["one", "two"]);
    let stats = store.stats();
    assert_eq!((stats.appended_records, stats.appended_bytes, stats.spaces.len()), (2, 2, 2));
}

#[test]
fn handles_of_a_space_share_one_log() {
    let store = Store::in_memory().unwrap();
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let space = store.space("shared").unwrap();
            thread::spawn(move || space.append("x").unwrap().wait(Durability::Local).unwrap())
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(store.logs().len(), 1);
    assert_eq!(store.space("shared").unwrap().read(..).unwrap().count(), 8);
}

#[test]
fn a_follower_gets_what_is_there_and_what_comes_and_ends_with_the_store() {
    let store = Store::in_memory().unwrap();
    let space = store.own_space().unwrap();
    let follower = space.follow(Cursor::start());
    let reader = thread::spawn(move || bodies(follower));
    for round in 0..10 {
        space.append(round.to_string()).unwrap().wait(Durability::Local).unwrap();
    }
    // The follower is given the time to see all of it: it ends as soon as the store does.
    let mut second = space.follow(Cursor::start());
    for _ in 0..10 {
        second.next().unwrap().unwrap();
    }
    store.close(Duration::ZERO).unwrap();
    assert!(second.next().is_none());
    let seen = reader.join().unwrap();
    let expected: Vec<_> = (0..seen.len()).map(|round| round.to_string()).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_follower_goes_on_from_the_cursor_it_is_given() {
    let store = Store::in_memory().unwrap();
    let space = store.own_space().unwrap();
    space.append_all(&["a", "b", "c"]).unwrap().wait(Durability::Local).unwrap();
    let mut follower = space.follow(Cursor::start());
    follower.next().unwrap().unwrap();
    let cursor = follower.cursor().clone();
    assert_eq!(cursor.next_seq(space.own_log().unwrap()), Seq(1));
    assert_eq!(bodies(space.follow(cursor).take(2)), ["b", "c"]);

    let mut latest = space.follow(space.end());
    assert_eq!(latest.next_timeout(Duration::ZERO).unwrap(), None);
    space.append("d").unwrap().wait(Durability::Local).unwrap();
    assert_eq!(bodies(latest.take(1)), ["d"]);
}

#[test]
fn a_stream_wakes_its_task_for_what_comes() {
    use std::{
        future::poll_fn,
        pin::pin,
        sync::Arc,
        task::{Context, Poll, Wake, Waker},
    };

    use futures_core::Stream as _;

    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);

    let store = Store::in_memory().unwrap();
    let space = store.own_space().unwrap();
    let mut stream = pin!(space.follow(Cursor::start()).into_stream());
    assert!(stream.as_mut().poll_next(&mut cx).is_pending());
    let writer = thread::spawn(move || space.append("a").unwrap().wait(Durability::Local).unwrap());
    let mut next = pin!(poll_fn(|cx| stream.as_mut().poll_next(cx)));
    let record = loop {
        match next.as_mut().poll(&mut cx) {
            Poll::Ready(item) => break item.unwrap().unwrap(),
            Poll::Pending => thread::park(),
        }
    };
    assert_eq!(&record.body()[..], b"a");
    writer.join().unwrap();
    store.close(Duration::ZERO).unwrap();
}

#[test]
fn a_log_that_is_not_here_is_named() {
    let store = Store::in_memory().unwrap();
    let error = store.own_space().unwrap().read_log(LogId::from_bytes([7; 16]), ..).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("07070707"), "{error}");
}
