//! Everything that the stages ask of the machine besides the ring: `/proc`, cgroups, account databases, runtimes, the clock.
//!
//! An agent at work asks the machine. One that records writes down each answer, and everything else that reached it, in the order in
//! which it mattered. A replay is given those answers and asks nothing; so it needs no privileges, and comes to the same
//! conclusions on another machine.

mod note;

use std::{cell::RefCell, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use note::{Note, Totals};

use crate::source::capture::{Frame, Writer, Written};

/// Answers to one record or note that a replay keeps, in number and bytes. A record raises a handful; a container's answer
/// as many as it had events waiting.
const ANSWERS_MAX: usize = 65_536;
const ANSWERS_BYTES_MAX: usize = 16 << 20;

/// A question to the machine, as a capture tells it from others of the same record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// The process with this id, by `/proc`.
    Process(u32),
    /// The folder behind a process's descriptor.
    Folder(u32, i32),
    /// What is known of a process's Python.
    Python(u32),
    /// The owner of a cgroup that a process is in.
    Cgroup(u64, u32),
    /// The owner of a process's cgroups by `/proc`.
    ProcessCgroup(u32),
    /// A field that only the running process can tell, by its place in the table and its argument's sum, for an event.
    Field(u64, u16, u32),
}

/// The way to the machine, or to what it answered once.
pub struct Outside(Mode);

enum Mode {
    Machine,
    Recording(RefCell<Recorder>),
    Replaying(RefCell<Answers>),
}

struct Recorder {
    writer: Writer,
    present: bool,
}

/// What a replay was given for the record or note that comes next.
#[derive(Default)]
struct Answers {
    bytes: Vec<u8>,
    /// Questions and where their answers are in `bytes`.
    places: Vec<(Question, usize, usize)>,
    /// Answers are asked for in the order that they were given in: where to look first.
    next: usize,
    unanswered: u64,
    dropped: u64,
    unreadable: u64,
}

impl Outside {
    /// Asks the machine, and that is all.
    pub const fn machine() -> Self {
        Self(Mode::Machine)
    }

    /// Asks the machine and writes down what it answers.
    pub const fn recording(writer: Writer) -> Self {
        Self(Mode::Recording(RefCell::new(Recorder {
            writer,
            present: false,
        })))
    }

    /// Asks nothing.
    pub fn replaying() -> Self {
        Self(Mode::Replaying(RefCell::default()))
    }

    /// The machine's answer, now or as it was recorded. `None` where nothing was: the replay asks what the recording agent
    /// did not.
    pub fn ask<A>(&self, question: Question, machine: impl FnOnce() -> A) -> Option<A>
    where
        A: Serialize + DeserializeOwned,
    {
        match &self.0 {
            Mode::Machine => Some(machine()),
            Mode::Recording(recorder) => {
                let answer = machine();
                let bytes = encode(&(question, &answer));
                recorder.borrow_mut().writer.frame(Frame::Answer(&bytes));
                Some(answer)
            }
            Mode::Replaying(answers) => answers.borrow_mut().take(question),
        }
    }

    /// A record was dealt with: everything that was asked on its account stands before it.
    pub fn record(&self, bytes: &[u8]) {
        match &self.0 {
            Mode::Machine => {}
            Mode::Recording(recorder) => recorder.borrow_mut().writer.frame(Frame::Record(bytes)),
            Mode::Replaying(_) => self.done(),
        }
    }

    /// Something else was dealt with that a replay must do at the same place.
    pub fn note(&self, note: impl FnOnce() -> Note) {
        match &self.0 {
            Mode::Machine | Mode::Replaying(_) => {}
            Mode::Recording(recorder) => {
                let bytes = encode(&note());
                recorder.borrow_mut().writer.frame(Frame::Note(&bytes));
            }
        }
    }

    /// For a replay: what the answers so far belong to is over.
    pub fn done(&self) {
        if let Mode::Replaying(answers) = &self.0 {
            answers.borrow_mut().forget();
        }
    }

    /// Notes whether any container runtime can be asked, when that has changed.
    pub fn runtimes_present(&self, present: bool) {
        if let Mode::Recording(recorder) = &self.0 {
            let mut recorder = recorder.borrow_mut();
            if recorder.present != present {
                recorder.present = present;
                let bytes = encode(&Note::RuntimesPresent(present));
                recorder.writer.frame(Frame::Note(&bytes));
            }
        }
    }

    /// About once a second: what was recorded so far is written.
    pub fn tick(&self) {
        if let Mode::Recording(recorder) = &self.0 {
            recorder.borrow_mut().writer.flush();
        }
    }

    /// Ends a recording; `None` where there was none.
    pub fn finish(&mut self, totals: Totals) -> Option<Written> {
        let mode = std::mem::replace(&mut self.0, Mode::Machine);
        let Mode::Recording(recorder) = mode else {
            self.0 = mode;
            return None;
        };
        let last = encode(&Note::End(totals));
        Some(recorder.into_inner().writer.finish(Frame::Note(&last)))
    }

    /// Takes in an answer of a capture, for the record or note that follows it.
    pub fn learn(&self, frame: &[u8]) {
        let Mode::Replaying(answers) = &self.0 else {
            return;
        };
        answers.borrow_mut().add(frame);
    }

    /// For a replay: questions that the capture does not answer, and answers that could not be used.
    pub fn gaps(&self) -> (u64, u64) {
        match &self.0 {
            Mode::Replaying(answers) => {
                let answers = answers.borrow();
                (answers.unanswered, answers.dropped + answers.unreadable)
            }
            _ => (0, 0),
        }
    }
}

impl Answers {
    fn add(&mut self, frame: &[u8]) {
        let Ok((question, answer)) = postcard::take_from_bytes::<Question>(frame) else {
            self.unreadable += 1;
            return;
        };
        if self.places.len() == ANSWERS_MAX || self.bytes.len() + answer.len() > ANSWERS_BYTES_MAX {
            self.dropped += 1;
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(answer);
        self.places.push((question, start, self.bytes.len()));
    }

    fn take<A: DeserializeOwned>(&mut self, question: Question) -> Option<A> {
        let (before, behind) = self.places.split_at(self.next.min(self.places.len()));
        let is_it = |(asked, ..): &(Question, usize, usize)| *asked == question;
        let found = match behind.iter().position(is_it) {
            Some(at) => Some(before.len() + at),
            None => before.iter().position(is_it),
        };
        let Some(at) = found else {
            self.unanswered += 1;
            return None;
        };
        self.next = at + 1;
        let (_, start, end) = self.places[at];
        let answer = postcard::from_bytes(&self.bytes[start..end]).ok();
        self.unreadable += u64::from(answer.is_none());
        answer
    }

    fn forget(&mut self) {
        self.bytes.clear();
        self.places.clear();
        self.next = 0;
    }
}

impl fmt::Debug for Outside {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self.0 {
            Mode::Machine => "Outside::machine",
            Mode::Recording(_) => "Outside::recording",
            Mode::Replaying(_) => "Outside::replaying",
        })
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value)
        .expect("what is recorded has lengths and no type that the format lacks")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(outside: &Outside, question: Question, text: &str) {
        outside.learn(&encode(&(question, text)));
    }

    fn ask(outside: &Outside, question: Question) -> Option<String> {
        outside.ask(question, || unreachable!("a replay asks no machine"))
    }

    #[test]
    fn a_replay_is_answered_by_question_within_one_record() {
        let outside = Outside::replaying();
        answer(&outside, Question::Process(1), "one");
        answer(&outside, Question::Process(2), "two");
        answer(&outside, Question::Process(1), "one again");
        assert_eq!(ask(&outside, Question::Process(2)).as_deref(), Some("two"));
        // What comes next is looked for first.
        let again = ask(&outside, Question::Process(1));
        assert_eq!(again.as_deref(), Some("one again"));
        assert_eq!(ask(&outside, Question::Python(1)), None);
        outside.record(b"");
        assert_eq!(ask(&outside, Question::Process(1)), None);
        assert_eq!(outside.gaps(), (2, 0));
    }

    #[test]
    fn answers_are_bounded_and_need_not_make_sense() {
        let outside = Outside::replaying();
        outside.learn(b"");
        outside.learn(&[200, 200, 200]);
        outside.learn(&encode(&(Question::Process(1), 7_u64)));
        assert_eq!(ask(&outside, Question::Process(1)), None);
        assert_eq!(outside.gaps(), (0, 3));
        let long = "x".repeat(1 << 20);
        for _ in 0..100 {
            answer(&outside, Question::Process(1), &long);
        }
        assert!(outside.gaps().1 > 80);
        outside.note(|| unreachable!("a replay writes nothing"));
        outside.done();
        for _ in 0..ANSWERS_MAX + 10 {
            answer(&outside, Question::Process(1), "");
        }
        assert!(outside.gaps().1 > 90);
        assert_eq!(ask(&outside, Question::Process(1)).as_deref(), Some(""));
    }
}
