//! The shell and questions at a terminal: a pseudo-terminal stands in for one.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{Place, command};

/// A command at a terminal of its own.
struct Terminal {
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    seen: String,
    child: Child,
}

impl Terminal {
    fn start(place: &Place, arguments: &[&str]) -> Self {
        let own = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&own).unwrap();
        unlockpt(&own).unwrap();
        let name = ptsname(&own, Vec::new()).unwrap();
        let theirs =
            || OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let child = command()
            .args(arguments)
            .current_dir(place.directory.path())
            .env("LAPIDARY_HISTORY", place.path("history"))
            .env("TERM", "xterm")
            .stdin(theirs())
            .stdout(theirs())
            .stderr(theirs())
            .spawn()
            .unwrap();
        let keyboard = File::from(own);
        let mut screen_end = keyboard.try_clone().unwrap();
        let (tell, screen) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end of the other side is an error here.
            while let Ok(count @ 1..) = screen_end.read(&mut bytes) {
                if tell.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { keyboard, screen, seen: String::new(), child }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// The signal that the terminal sends for Ctrl-C, again and again until it is answered: the first may
    /// come before the statement has begun.
    fn interrupt(&mut self) {
        let process = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        for _ in 0..600 {
            kill_process(process, Signal::INT).unwrap();
            match self.screen.recv_timeout(Duration::from_millis(100)) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("it has ended: {:?}", self.seen),
            }
            if self.seen.contains("interrupted") {
                return;
            }
        }
    }

    /// Waits until `text` is on the screen, after what was waited for before.
    #[track_caller]
    fn see(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            match self.screen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("{text:?} is not in {:?}", self.seen)
                }
            }
        }
    }

    fn end(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }
}

/// What a test that fails leaves running would go on for ever.
impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_shell_completes_and_remembers() {
    let place = Place::new();
    place.facet("a");
    let mut shell = Terminal::start(&place, &["sql", "s", "a"]);
    shell.see("a> ");
    // The keyword, the table and the column are completed.
    shell.press("sel\t bod\t from not\t where id = 2;\r");
    shell.see("bread");
    shell.see("a> ");
    shell.press(".ti\t on\r");
    shell.see("a> ");
    // A statement over two lines, that fails.
    shell.press("SELECT\r");
    shell.see("...> ");
    shell.press("nowhere;\r");
    shell.see("no such column");
    shell.see("a> ");
    shell.press("BEGIN;\r");
    shell.see("a*> ");
    shell.press(".quit\r");
    assert_eq!(shell.end(), 0);
    let history = fs::read_to_string(place.path("history")).unwrap();
    assert!(history.contains("SELECT"), "{history}");

    // The next one has it: up twice, past `.quit` and `BEGIN`.
    let mut shell = Terminal::start(&place, &["sql", "s", "a"]);
    shell.see("a> ");
    shell.press("\u{1b}[A\u{1b}[A\r");
    shell.see("a*> ");
    shell.press("\u{4}");
    assert_eq!(shell.end(), 0);
}

#[test]
fn ctrl_c_ends_the_statement_and_not_the_shell() {
    let place = Place::new();
    place.facet("a");
    let endless = "CREATE VIEW endless AS
        WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i FROM n) SELECT i FROM n";
    place.ok(&["sql", "s", "a", endless]);
    let mut shell = Terminal::start(&place, &["sql", "s", "a"]);
    shell.see("a> ");
    for is_opened_anew in [false, true] {
        if is_opened_anew {
            // On another connection from here on.
            shell.press(".as-of now\r");
            // What is typed before the editor is ready again can be lost; that is what it says then.
            shell.see("\u{1b}[?2004l");
            shell.see("\u{1b}[?2004h");
            shell.see("a> ");
        }
        // A view without an end; the line must fit into 80 columns, or the editor breaks it.
        shell.press("SELECT count(*) FROM endless;\r");
        shell.see("FROM endless;");
        shell.interrupt();
        shell.see("interrupted");
        shell.see("a> ");
    }
    // One at the prompt gives up what was typed, and the next statement is none the worse.
    shell.press("SELECT nonsense");
    shell.see("nonsense");
    shell.press("\u{3}");
    shell.see("a> ");
    shell.press("SELECT body FROM note WHERE id = 2;\r");
    shell.see("bread");
    shell.see("a> ");
    shell.press(".quit\r");
    assert_eq!(shell.end(), 0);
}

#[test]
fn rm_asks_and_takes_no_for_an_answer() {
    let place = Place::new();
    place.ok(&["create", "s", "a", "a/b"]);
    let mut asked = Terminal::start(&place, &["rm", "s", "a"]);
    asked.see("delete a (2 facets)? [y/N] ");
    asked.press("\r");
    assert_eq!(asked.end(), 0);
    assert_eq!(place.ok(&["ls", "s"]), "a\na/b\n");
    let mut asked = Terminal::start(&place, &["rm", "s", "a"]);
    asked.see("[y/N] ");
    asked.press("y\r");
    asked.see("deleted a: 2 facets");
    assert_eq!(asked.end(), 0);
    assert_eq!(place.ok(&["ls", "s"]), "");
}

#[test]
fn an_error_is_in_colour_unless_no_color_is_set() {
    let place = Place::new();
    let mut coloured = Terminal::start(&place, &["stat", "s", "none"]);
    coloured.see("\u{1b}[31m");
    assert_eq!(coloured.end(), 3);
}
