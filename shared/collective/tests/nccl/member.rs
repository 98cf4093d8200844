//! A member as a process of its own, for the tests of NCCL. It does as the lines on its standard input say, and
//! answers each with a line:
//!
//! * `join GENERATION RANK exact|fast CHUNK DEADLINE TIMEOUT ADDRESS,...` (times in milliseconds): `joined`
//! * `sum SLOTS START END STEP LENGTH host|device|slots`: `sum` and all bits of it
//! * `leave`: `left`
//! * `abort`: no answer of its own; from another thread than the one that joins and sums
//!
//! A fault of the stand-in that comes into play says so: `struck` and the fault. Whatever fails is answered by `failed` and why. Its first line says where it listens.

#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;
mod work;

use std::io::BufRead;
use std::ops::Range;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use perennial_collective::nccl::{
    DeviceContribution, DevicePartial, HostMemory, Nccl, NcclConfig, NcclLibrary, Reduction,
};
use perennial_collective::{
    AbortHandle, Collective, CollectiveError, Contribution, MeshConfig, Partial, Reduced,
    TcpEndpoint,
};

static ABORT: Mutex<Option<AbortHandle>> = Mutex::new(None);

struct Program {
    endpoint: TcpEndpoint,
    member: Option<Nccl<HostMemory>>,
}

impl Program {
    fn obey(&mut self, command: &str) -> Result<String, CollectiveError> {
        let words: Vec<&str> = command.split(' ').collect();
        match words[..] {
            ["join", ..] => self.join(&words[1..]),
            ["sum", ..] => self
                .sum(&words[1..])
                .map(|sum| format!("sum {}", work::told(&sum))),
            ["leave"] => {
                self.member = None;
                Ok("left".to_owned())
            }
            _ => panic!("`{command}` is no command"),
        }
    }

    fn join(&mut self, words: &[&str]) -> Result<String, CollectiveError> {
        let millis = |word: &str| Duration::from_millis(word.parse().unwrap());
        // After a failure it is still there.
        self.member = None;
        let abort = AbortHandle::new();
        *ABORT.lock().unwrap() = Some(abort.clone());
        let library = NcclLibrary::load()?;
        let config = MeshConfig {
            job: "seedlings".to_owned(),
            generation: words[0].parse().unwrap(),
            rank: words[1].parse().unwrap(),
            addresses: words[6].split(',').map(str::to_owned).collect(),
            deadline: Duration::from_secs(20),
            timeout: millis(words[5]),
            silence: Duration::from_secs(5),
        };
        let mesh = self.endpoint.connect(config, &abort)?;
        let config = NcclConfig {
            reduction: match words[2] {
                "exact" => Reduction::Exact,
                "fast" => Reduction::Fast,
                other => panic!("`{other}` is no reduction"),
            },
            chunk: words[3].parse().unwrap(),
            deadline: millis(words[4]),
        };
        let device = HostMemory::of(&library)?;
        self.member = Some(Nccl::connect(mesh, &library, device, config)?);
        Ok("joined".to_owned())
    }

    fn sum(&mut self, words: &[&str]) -> Result<Reduced, CollectiveError> {
        let numbers: Vec<u32> = words[..5]
            .iter()
            .map(|word| word.parse().unwrap())
            .collect();
        let [slots, start, end, step, len] = numbers[..] else {
            panic!("`{words:?}` is no sum");
        };
        let member = self.member.as_mut().unwrap();
        let mut contribution = work::contribution(slots, start..end, step, len as usize);
        contribution.control = 1 << member.rank();
        match words[5] {
            "host" => return member.all_reduce(contribution),
            "slots" => return sum_slots(member, start..end, step, contribution),
            _ => {}
        }
        let reduced = member.all_reduce_on_device(DeviceContribution {
            slots,
            gradients: DevicePartial {
                len: contribution.gradients.len,
                nodes: contribution.gradients.nodes,
            },
            statistics: contribution.statistics,
            control: contribution.control,
        })?;
        Ok(Reduced {
            gradients: reduced.gradients,
            statistics: reduced.statistics,
            control: reduced.control,
        })
    }
}

/// The same, slot by slot on the device and from the last one, each in parts.
fn sum_slots(
    member: &mut Nccl<HostMemory>,
    owned: Range<u32>,
    step: u32,
    contribution: Contribution,
) -> Result<Reduced, CollectiveError> {
    let len = contribution.gradients.len;
    let on_device = member.device_slots().unwrap();
    on_device.begin(contribution.slots, owned.clone(), len);
    for slot in owned.rev() {
        let parts = work::values(slot, step, len).map(|values| {
            let ranges = [len / 3..len, 0..len / 3];
            let part = |range: Range<usize>| (range.clone(), values[range].to_vec().into());
            ranges.map(part).into()
        });
        on_device.add(slot, parts)?;
    }
    let gradients = Partial {
        len,
        ..Partial::default()
    };
    member.all_reduce(Contribution {
        gradients,
        ..contribution
    })
}

fn main() {
    let (endpoint, address) = TcpEndpoint::bind("127.0.0.1:0").unwrap();
    println!("{address}");
    let (sender, commands) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            match line.unwrap().as_str() {
                "abort" => ABORT.lock().unwrap().as_ref().unwrap().abort(),
                command => sender.send(command.to_owned()).unwrap(),
            }
        }
        // The test is over, whatever is at work here.
        std::process::exit(0);
    });
    let mut program = Program {
        endpoint,
        member: None,
    };
    for command in commands {
        match program.obey(&command) {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("failed {error}"),
        }
    }
}
