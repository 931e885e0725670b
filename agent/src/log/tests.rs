//! Readers, bounds, restarts and damaged files.

use std::{fs, path::Path};

use super::*;
use crate::alert::Alert;

fn settings(directory: Option<&Path>) -> Settings {
    Settings {
        directory: directory.map(Into::into),
        bytes_max: 1 << 30,
        age_max: Duration::from_secs(3600),
        memory_bytes_max: 1 << 20,
        sync: Duration::from_millis(50),
    }
}

fn memory(bytes_max: usize) -> AlertLog {
    AlertLog::in_memory(bytes_max, Arc::new(Metrics::new()))
}

fn stored(directory: &Path) -> AlertLog {
    stored_with(settings(Some(directory)))
}

fn stored_with(settings: Settings) -> AlertLog {
    AlertLog::open(settings, Arc::new(Metrics::new())).expect("the log opens")
}

fn append(log: &AlertLog, names: &[&str]) -> Cursor {
    let record = |name: &&str| Record::new(&Alert::for_tests(name));
    log.append(names.iter().map(record).collect())
}

fn append_numbers(log: &AlertLog, numbers: std::ops::Range<u32>) {
    let names: Vec<_> = numbers.map(|number| number.to_string()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    append(log, &names);
}

fn names(batch: &Batch) -> Vec<String> {
    let names = batch
        .alerts
        .iter()
        .map(|entry| entry.record.rule.to_string());
    names.collect()
}

/// Everything a reader gets until the log ends, committed.
async fn drain(mut reader: Reader) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(batch) = reader.next(100).await {
        all.extend(names(&batch));
        reader.commit(&batch).await;
    }
    all
}

async fn end(log: &AlertLog) -> u64 {
    log.close();
    let log = log.clone();
    tokio::task::spawn_blocking(move || log.finish())
        .await
        .expect("it does not panic")
}

fn dropped(log: &AlertLog, cause: &str) -> u64 {
    log.shared.metrics.delivery.count_of(cause)
}

fn missed(log: &AlertLog, sink: &str) -> u64 {
    let sink = SinkName { sink: sink.into() };
    let counter = &log.shared.metrics.delivery.sink_missed;
    counter.get_or_create(&sink).get()
}

#[tokio::test]
async fn each_reader_has_its_own_place() {
    let folder = tempfile::tempdir().expect("a folder");
    for log in [memory(1 << 20), stored(folder.path())] {
        let (mut fast, mut slow) = (log.reader("fast"), log.reader("slow"));
        append(&log, &["one", "two"]);
        let mut batch = fast.next(10).await.expect("alerts are there");
        if names(&batch).len() == 1 {
            fast.commit(&batch).await;
            batch = fast.next(10).await.expect("the second is there");
        }
        assert_eq!(names(&batch).last().map(String::as_str), Some("two"));
        fast.commit(&batch).await;
        append(&log, &["three"]);
        let third = fast.next(10).await.expect("a third is there");
        assert_eq!(names(&third), ["three"]);
        let first = slow.next(1).await.expect("slow has read nothing");
        assert_eq!(names(&first), ["one"]);
        let again = slow
            .next(1)
            .await
            .expect("what is not committed comes again");
        assert_eq!(names(&again), ["one"]);
    }
}

#[tokio::test]
async fn a_closed_log_is_read_to_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    for log in [memory(1 << 20), stored(folder.path())] {
        let reader = log.reader("a");
        append_numbers(&log, 0..1000);
        log.close();
        let all = drain(reader).await;
        assert_eq!((all.len(), all[999].as_str()), (1000, "999"));
        assert_eq!(end(&log).await, 0);
    }
}

#[tokio::test]
async fn the_bound_of_memory_drops_the_oldest_and_counts_it() {
    let one = Record::new(&Alert::for_tests("a")).size_bytes();
    let log = memory(2 * one);
    let mut reader = log.reader("r");
    append(&log, &["a", "b", "c", "d"]);
    let batch = reader.next(10).await.expect("two alerts are there");
    let counts = (dropped(&log, "log_full"), missed(&log, "r"));
    assert_eq!(
        (names(&batch), counts),
        (vec!["c".into(), "d".into()], (2, 2))
    );
    assert_eq!(log.oldest(), log.newest() - 1);
}

#[tokio::test]
async fn what_is_never_delivered_is_counted() {
    let log = memory(1 << 20);
    let mut reader = log.reader("r");
    append(&log, &["one"]);
    let batch = reader.next(10).await.expect("one alert is there");
    reader.give_up(&batch, 1, "sink_closed").await;
    append(&log, &["two"]);
    assert_eq!(end(&log).await, 1);
    let counts = ["sink_closed", "undelivered", "log_full"].map(|cause| dropped(&log, cause));
    assert_eq!(counts, [1, 1, 0]);
}

#[tokio::test]
async fn a_restart_goes_on_where_each_sink_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = stored(folder.path());
    let (mut fast, slow) = (first.reader("fast"), first.reader("slow"));
    append_numbers(&first, 0..10);
    let mut had = 0;
    while had < 10 {
        let batch = fast.next(100).await.expect("alerts are there");
        had += batch.alerts.len();
        fast.commit(&batch).await;
    }
    let newest = first.newest();
    assert_eq!(end(&first).await, 0, "what is in files is not given up");
    drop((fast, slow, first));

    let second = stored(folder.path());
    let (fast, slow) = (second.reader("fast"), second.reader("slow"));
    let new = second.reader("new");
    assert!(append(&second, &["ten"]) > newest, "cursors only grow");
    second.close();
    assert_eq!(drain(fast).await, ["ten"]);
    assert_eq!(drain(slow).await.len(), 11);
    assert_eq!(
        drain(new).await,
        ["ten"],
        "a new sink begins with what is new"
    );
    assert_eq!(end(&second).await, 0);
}

#[tokio::test]
async fn a_sink_that_is_gone_is_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = stored(folder.path());
    let _ = log.reader("old");
    append(&log, &["a"]);
    end(&log).await;
    drop(log);
    let log = stored(folder.path());
    log.forget_others();
    let disk = log.shared.disk.get().expect("it has files");
    assert_eq!(disk.store().sinks().expect("they read"), []);
    end(&log).await;
}

#[tokio::test]
async fn the_bound_of_files_drops_the_oldest_and_counts_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = stored_with(Settings {
        bytes_max: 20_000,
        ..settings(Some(folder.path()))
    });
    let reader = log.reader("stuck");
    for number in 0..400 {
        append_numbers(&log, number * 10..number * 10 + 10);
        let last = log.shared.lock().next - 1;
        assert!(log.follow().reaches(last).await, "it is stored");
    }
    log.close();
    let all = drain(reader).await;
    end(&log).await;
    assert_eq!(all.last().map(String::as_str), Some("3999"));
    assert_eq!(all.len() as u64 + missed(&log, "stuck"), 4000);
    assert_eq!(dropped(&log, "log_full"), missed(&log, "stuck"));
    assert!(missed(&log, "stuck") > 0);
}

#[tokio::test]
async fn alerts_are_found_by_cursor_and_by_time() {
    let folder = tempfile::tempdir().expect("a folder");
    for log in [memory(1 << 20), stored(folder.path())] {
        let at = |time_ns: i64| {
            let mut record = Record::new(&Alert::for_tests(&time_ns.to_string()));
            record.time_ns = time_ns;
            record
        };
        let last = log.append((0..100).map(at).collect());
        let first = last - 99;
        assert!(log.follow().reaches(last).await, "it is stored");
        let batch = log.read_after(first + 9, 5).await.expect("it reads");
        assert_eq!(names(&batch)[..2], ["10", "11"]);
        let after = log.cursor_at(50).await.expect("it reads");
        let batch = log.read_after(after, 100).await.expect("it reads");
        assert_eq!((batch.alerts.len(), names(&batch)[0].as_str()), (50, "50"));
        assert_eq!(log.cursor_at(1000).await.expect("it reads"), last);
        let none = log.read_after(last, 5).await.expect("it reads");
        assert_eq!((none.alerts.len(), none.end), (0, last));
        assert_eq!((log.oldest(), log.newest()), (first, last));
        end(&log).await;
    }
}

#[tokio::test]
async fn one_log_is_one_agents() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = stored(folder.path());
    let second = AlertLog::open(settings(Some(folder.path())), Arc::new(Metrics::new()));
    assert!(matches!(second, Err(LogError::Taken { .. })), "{second:?}");
    end(&log).await;
}

/// A log of ten times ten alerts in blocks of ten, and its database file.
async fn ten_blocks(folder: &Path) -> std::path::PathBuf {
    let log = stored(folder);
    let reader = log.reader("sink");
    for ten in 0..10 {
        append_numbers(&log, ten * 10..ten * 10 + 10);
        let last = log.shared.lock().next - 1;
        assert!(log.follow().reaches(last).await, "it is stored");
    }
    end(&log).await;
    drop((reader, log));
    folder.join("alerts").join(store::FILE)
}

#[tokio::test]
async fn a_damaged_tail_costs_what_is_damaged_and_is_counted() {
    type Damage = fn(&Path, &mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("cut", |_, bytes| bytes.truncate(bytes.len() - 6000)),
        ("garbage", |_, bytes| {
            let end = bytes.len();
            bytes[end - 5000..].fill(0x5a);
        }),
        ("empty", |_, bytes| bytes.clear()),
        ("torn write-ahead file", |file, _| {
            let wal = file.with_extension("db-wal");
            fs::write(wal, [0x37; 9000]).expect("it is written");
        }),
    ];
    for (name, damage) in damages {
        let folder = tempfile::tempdir().expect("a folder");
        let file = ten_blocks(folder.path()).await;
        let mut bytes = fs::read(&file).expect("it is there");
        damage(&file, &mut bytes);
        fs::write(&file, &bytes).expect("it is ours");
        let log = stored(folder.path());
        let reader = log.reader("sink");
        append(&log, &["new"]);
        log.close();
        let all = drain(reader).await;
        assert_eq!(end(&log).await, 0);
        assert_eq!(all.last().map(String::as_str), Some("new"), "{name}");
        let lost = dropped(&log, "log_damaged");
        let had = (all.len() - 1) as u64;
        assert_eq!(had + lost, 100, "{name}: {had} delivered, {lost} lost");
    }
}

#[tokio::test]
async fn who_leaves_is_forgotten_and_comes_back_as_a_new_one() {
    let folder = tempfile::tempdir().expect("a folder");
    for log in [memory(1 << 20), stored(folder.path())] {
        let (mut stays, leaves) = (log.reader("stays"), log.reader("leaves"));
        append_numbers(&log, 0..10);
        let last = log.shared.lock().next - 1;
        assert!(log.follow().reaches(last).await, "it is seen");
        assert_eq!(leaves.leave().await, 10);
        append_numbers(&log, 10..20);
        let mut back = log.reader("leaves");
        assert_eq!(
            log.shared.lock().readers.len(),
            2,
            "its place is used again"
        );
        append_numbers(&log, 20..21);
        let batch = back.next(100).await.expect("one alert is new");
        assert_eq!(names(&batch), ["20"]);
        back.commit(&batch).await;
        assert_eq!(back.leave().await, 0);
        let mut had = 0;
        while had < 21 {
            let batch = stays.next(100).await.expect("alerts are there");
            had += batch.alerts.len();
            stays.commit(&batch).await;
        }
        assert_eq!(end(&log).await, 0);
        let shown = log.shared.metrics.delivery.sink_alerts.clone();
        let shown = |sink: &str| shown.get(&SinkName { sink: sink.into() }).is_some();
        assert!(shown("stays") && !shown("leaves"));
    }
    let again = stored(folder.path());
    let known = again.shared.lock().sinks.clone();
    let known: Vec<_> = known.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(known, ["stays"], "the files have forgotten it too");
}

#[tokio::test]
async fn what_is_put_back_and_dropped_meanwhile_is_counted() {
    let one = Record::new(&Alert::for_tests("0")).size_bytes();
    let log = memory(4 * one);
    let mut reader = log.reader("r");
    append_numbers(&log, 0..4);
    let batch = reader.next(10).await.expect("four alerts are there");
    append_numbers(&log, 4..6);
    assert_eq!(dropped(&log, "log_full"), 0, "they are in hand");
    reader.put_back(&batch);
    assert_eq!((dropped(&log, "log_full"), missed(&log, "r")), (2, 2));
    let batch = reader.next(10).await.expect("four alerts are there");
    assert_eq!(names(&batch), ["2", "3", "4", "5"]);
    append_numbers(&log, 6..7);
    reader.commit(&batch).await;
    assert_eq!(dropped(&log, "log_full"), 2);
}
