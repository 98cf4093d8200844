//! Members as processes, each with a stand-in for NCCL.

use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

/// Longer than anything takes that ends at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// The stand-in lies where cargo puts what tests depend on: beside the test.
pub fn library() -> String {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    let test = std::env::current_exe().unwrap();
    let name = format!("{DLL_PREFIX}perennial_standin_nccl{DLL_SUFFIX}");
    let file = test.parent().unwrap().join(name);
    file.to_str().unwrap().to_owned()
}

pub struct Member {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    address: String,
}

/// How a membership sums.
pub struct Generation {
    pub id: u64,
    pub reduction: &'static str,
    pub chunk: usize,
    /// Milliseconds.
    pub deadline: u64,
    pub timeout: u64,
}

pub struct Cluster {
    pub members: Vec<Member>,
}

impl Member {
    pub fn start(environment: &[(&str, &str)]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_nccl-member"))
            .env("PERENNIAL_NCCL", library())
            .env_remove("NCCL_COMM_ID")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = output.lines().map_while(Result::ok);
            lines.all(|line| sender.send(line).is_ok())
        });
        let mut member = Self {
            input: process.stdin.take().unwrap(),
            process,
            lines,
            address: String::new(),
        };
        member.address = member.hear();
        member
    }

    pub fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    #[track_caller]
    pub fn hear(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a member answers")
    }

    /// Waits until a fault has come into play.
    #[track_caller]
    pub fn hear_strike(&mut self, fault: &str) {
        assert_eq!(self.hear(), format!("struck {fault}"));
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may be gone.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            id: 7,
            reduction: "exact",
            chunk: 1000,
            deadline: 60_000,
            timeout: 60_000,
        }
    }
}

impl Generation {
    pub fn later() -> Self {
        Self {
            id: 8,
            ..Self::default()
        }
    }
}

impl Cluster {
    /// So many members, some with faults.
    pub fn new(count: usize, faults: &[(usize, &str)]) -> Self {
        let start = |member: usize| {
            let faults = faults.iter().filter(|(faulty, _)| *faulty == member);
            let environment: Vec<_> = faults
                .map(|(_, fault)| ("STANDIN_NCCL_FAULTS", *fault))
                .collect();
            Member::start(&environment)
        };
        Self {
            members: (0..count).map(start).collect(),
        }
    }

    /// What the members say who are to join a generation, in the order of their ranks.
    pub fn join(&mut self, members: &[usize], generation: &Generation) -> Vec<String> {
        let addresses = members
            .iter()
            .map(|member| self.members[*member].address.as_str());
        let addresses = addresses.collect::<Vec<_>>().join(",");
        for (rank, member) in members.iter().enumerate() {
            let Generation {
                id,
                reduction,
                chunk,
                deadline,
                timeout,
            } = generation;
            self.members[*member].say(&format!(
                "join {id} {rank} {reduction} {chunk} {deadline} {timeout} {addresses}"
            ));
        }
        self.hear(members)
    }

    #[track_caller]
    pub fn join_all(&mut self, members: &[usize], generation: &Generation) {
        let said = self.join(members, generation);
        assert!(said.iter().all(|said| said == "joined"), "{said:?}");
    }

    /// Asks for a sum whose answers are still to be heard.
    pub fn ask_sum(
        &mut self,
        members: &[usize],
        slots: u32,
        owners: &[Range<u32>],
        step: u32,
        len: usize,
        way: &str,
    ) {
        for (member, owned) in members.iter().zip(owners) {
            let Range { start, end } = owned;
            self.members[*member].say(&format!("sum {slots} {start} {end} {step} {len} {way}"));
        }
    }

    pub fn sum(
        &mut self,
        members: &[usize],
        slots: u32,
        owners: &[Range<u32>],
        step: u32,
        len: usize,
        way: &str,
    ) -> Vec<String> {
        self.ask_sum(members, slots, owners, step, len, way);
        self.hear(members)
    }

    #[track_caller]
    pub fn leave(&mut self, members: &[usize]) {
        for member in members {
            self.members[*member].say("leave");
        }
        let said = self.hear(members);
        assert!(said.iter().all(|said| said == "left"), "{said:?}");
    }

    #[track_caller]
    fn hear(&mut self, members: &[usize]) -> Vec<String> {
        members
            .iter()
            .map(|member| self.members[*member].hear())
            .collect()
    }
}
