//! Whether a GPU is still to be trusted. The driver tells of failures that no call of a program returns, or returns too late.

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;

use super::{in_background, probe};

/// How long to wait for an event before asking again, in milliseconds.
const TURN: u32 = 10_000;
/// Xids that a program causes, this one or another one on the GPU, and that say nothing of the hardware. As NVIDIA's device
/// plugin for Kubernetes has them.
const OF_PROGRAMS: [u64; 6] = [13, 31, 43, 45, 68, 109];

/// Calls `told` with what happened once GPU `index` has failed, from a thread of its own. The error is why nobody can watch.
pub fn watch(index: usize, told: impl FnOnce(String) + Send + 'static) -> Result<(), String> {
    let place = probe::bus_id(index)?;
    let nvml = open()?;
    let watching = move || match wait(&nvml, &place) {
        Ok(failure) => told(failure),
        Err(error) => tracing::warn!(%error, "nobody watches the GPU any more"),
    };
    in_background("gpu-health", watching)
}

/// Errors of GPU `index`'s memory that were not corrected since the driver was loaded; none where it does not count them.
pub fn memory_errors(index: usize) -> Option<u64> {
    let place = probe::bus_id(index).ok()?;
    let nvml = open().ok()?;
    let device = nvml.device_by_pci_bus_id(place).ok()?;
    device
        .total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)
        .ok()
}

fn open() -> Result<Nvml, String> {
    Nvml::init().map_err(|error| format!("NVML cannot be used: {error}"))
}

/// Waits for a failure of the GPU at `place`.
fn wait(nvml: &Nvml, place: &str) -> Result<String, String> {
    let said = |error: NvmlError| error.to_string();
    let device = nvml.device_by_pci_bus_id(place).map_err(said)?;
    let events = nvml.create_event_set().map_err(said)?;
    let kinds = EventTypes::CRITICAL_XID_ERROR | EventTypes::DOUBLE_BIT_ECC_ERROR;
    let registered = device.register_events(kinds, events);
    let events = registered.map_err(|error| said(error.error))?;
    loop {
        let event = match events.wait(TURN) {
            Ok(event) => event,
            Err(NvmlError::Timeout) => continue,
            Err(error) => return Err(said(error)),
        };
        if event.event_type.contains(EventTypes::DOUBLE_BIT_ECC_ERROR) {
            return Ok("an error of its memory could not be corrected (ECC)".to_string());
        }
        match event.event_data {
            Some(XidError::Value(xid)) if OF_PROGRAMS.contains(&xid) => {
                tracing::warn!(xid, "the driver reports an error of a program on the GPU");
            }
            Some(XidError::Value(xid)) => return Ok(format!("the driver reports Xid {xid}")),
            Some(XidError::Unknown) => return Ok("the driver reports an unknown Xid".to_string()),
            None => {}
        }
    }
}
