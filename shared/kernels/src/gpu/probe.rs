//! What of CUDA this machine has. Burn and the bindings panic where a library is missing, so that is asked before they
//! are used.

use std::path::PathBuf;

use cudarc::driver::result::{device, init};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use crate::device::{Cuda, Gpu};

/// Names under which NCCL is installed, and the order in which they are tried.
const NCCL: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// Asks this machine.
pub fn cuda() -> Cuda {
    Cuda {
        driver: driver(),
        nvrtc: nvrtc(),
        headers: headers(),
        nccl: nccl(),
        gpus: count().and_then(|count| (0..count).map(healthy).collect()),
        links: count().and_then(links),
    }
}

/// Whether GPU `index` can be used; the reason when it cannot.
pub fn usable(index: usize) -> Result<(), String> {
    gpu(index)?;
    nvrtc()?;
    headers()?;
    Ok(())
}

/// GPU `index`, with what the driver has counted of its errors.
fn healthy(index: usize) -> Result<Gpu, String> {
    Ok(Gpu {
        memory_errors: super::health::memory_errors(index),
        ..gpu(index)?
    })
}

/// GPU `index`.
#[allow(unsafe_code)]
pub fn gpu(index: usize) -> Result<Gpu, String> {
    let count = count()?;
    if index >= count {
        return Err(match count {
            0 => "the driver sees no GPU".to_string(),
            1 => "the driver sees one GPU, which is `cuda:0`".to_string(),
            count => format!(
                "the driver sees {count} GPUs, `cuda:0` to `cuda:{}`",
                count - 1
            ),
        });
    }
    let failed =
        |error: cudarc::driver::DriverError| said("cannot ask the driver for the GPU", error);
    let handle = device::get(index as i32).map_err(failed)?;
    // SAFETY: `handle` is a GPU that the driver gave.
    let attribute = |name: Attribute| unsafe { device::get_attribute(handle, name) };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    // SAFETY: as above.
    let memory = unsafe { device::total_mem(handle) };
    Ok(Gpu {
        name: device::get_name(handle).map_err(failed)?,
        capability: [major.map_err(failed)?, minor.map_err(failed)?],
        memory: memory.map_err(failed)?,
        memory_errors: None,
    })
}

/// Where GPU `index` is in this machine: `0000:01:00.0`.
#[allow(unsafe_code)]
pub fn bus_id(index: usize) -> Result<String, String> {
    gpu(index)?;
    let failed = |error| said("cannot ask the driver where the GPU is", error);
    let handle = device::get(index as i32).map_err(failed)?;
    let mut text = [0; 32];
    // SAFETY: the function writes no more bytes than it is told, the last of them zero.
    let text = unsafe {
        let asked = sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as i32, handle);
        asked.result().map_err(failed)?;
        std::ffi::CStr::from_ptr(text.as_ptr())
    };
    Ok(text.to_string_lossy().into_owned())
}

/// Pairs of GPUs of which each reaches the other's memory.
fn links(count: usize) -> Result<Vec<[usize; 2]>, String> {
    let mut links = Vec::new();
    for from in 0..count {
        for to in from + 1..count {
            if reaches(from, to)? && reaches(to, from)? {
                links.push([from, to]);
            }
        }
    }
    Ok(links)
}

/// Whether GPU `from` reaches the memory of GPU `to` without the host.
#[allow(unsafe_code)]
fn reaches(from: usize, to: usize) -> Result<bool, String> {
    let failed = |error| said("cannot ask the driver which GPUs reach each other", error);
    let handle = |index: usize| device::get(index as i32).map_err(failed);
    let (from, to) = (handle(from)?, handle(to)?);
    let mut reaches = 0;
    // SAFETY: both are GPUs that the driver gave, and it writes one number.
    let asked = unsafe { sys::cuDeviceCanAccessPeer(&mut reaches, from, to) };
    asked.result().map_err(failed)?;
    Ok(reaches != 0)
}

/// GPUs that the driver sees.
fn count() -> Result<usize, String> {
    driver()?;
    let count = device::get_count();
    let count = count.map_err(|error| said("the CUDA driver does not count its GPUs", error))?;
    Ok(count as usize)
}

#[allow(unsafe_code)]
fn driver() -> Result<String, String> {
    // SAFETY: loading the driver's library runs its constructors, which any program that uses it does.
    if !unsafe { sys::is_culib_present() } {
        return Err(missing(
            "the NVIDIA driver's library",
            &["libcuda.so", "libcuda.so.1"],
        ));
    }
    init().map_err(|error| said("the CUDA driver does not start", error))?;
    let [major, minor] = driver_version()?;
    Ok(format!("CUDA {major}.{minor}"))
}

/// Of CUDA, as far as the driver, which is loaded, knows it.
#[allow(unsafe_code)]
fn driver_version() -> Result<[i32; 2], String> {
    let mut version = 0;
    // SAFETY: the library is there, and writes the version to where it may.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
    asked.map_err(|error| said("the CUDA driver does not tell its version", error))?;
    Ok([version / 1000, version % 1000 / 10])
}

#[allow(unsafe_code)]
fn nvrtc() -> Result<String, String> {
    // SAFETY: as with the driver.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        let names = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"];
        return Err(missing("CUDA's run-time compiler NVRTC", &names));
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is there, and writes both numbers to where it may.
    let asked = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
    match asked {
        cudarc::nvrtc::sys::nvrtcResult::NVRTC_SUCCESS => {}
        error => return Err(format!("NVRTC does not tell its version: {error:?}")),
    }
    // What it writes is text in the language of its own CUDA, and the driver compiles that further.
    match driver().and_then(|_| driver_version()) {
        Ok([driver_major, driver_minor]) if [driver_major, driver_minor] < [major, minor] => {
            Err(format!(
                "NVRTC is of CUDA {major}.{minor} and writes what the driver, which knows CUDA {driver_major}.{driver_minor}, cannot read; put an older NVRTC in front in LD_LIBRARY_PATH, or install a newer driver"
            ))
        }
        _ => Ok(format!("{major}.{minor}")),
    }
}

fn headers() -> Result<PathBuf, String> {
    let from = match std::env::var("CUDA_PATH") {
        Ok(path) => format!("CUDA_PATH, which is `{path}`"),
        Err(_) => {
            "`/usr/local/cuda`, `/opt/cuda` or `/usr`; CUDA_PATH says another folder".to_string()
        }
    };
    let include = cubecl::cuda::install::cuda_path().map(|path| path.join("include"));
    let found = include.filter(|include| include.join("cuda_fp16.h").is_file());
    found.ok_or_else(|| format!("CUDA's headers (`include/cuda_fp16.h`) are not in {from}"))
}

#[allow(unsafe_code)]
fn nccl() -> Result<String, String> {
    // SAFETY: as with the driver.
    let library = NCCL
        .iter()
        .find_map(|name| unsafe { libloading::Library::new(*name) }.ok());
    let library = library.ok_or_else(|| missing("NCCL", &NCCL))?;
    let mut version = 0;
    // SAFETY: `ncclGetVersion` has this signature in every version of NCCL 2, and writes to where it may.
    let asked = unsafe {
        let get = library.get::<unsafe extern "C" fn(*mut i32) -> i32>(b"ncclGetVersion\0");
        get.map(|get| get(&mut version))
    };
    match asked {
        Ok(0) => Ok(format!(
            "{}.{}.{}",
            version / 10000,
            version / 100 % 100,
            version % 100
        )),
        Ok(error) => Err(format!("NCCL does not tell its version: error {error}")),
        Err(error) => Err(format!("NCCL's library is not usable: {error}")),
    }
}

fn missing(what: &str, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let folders = match std::env::var("LD_LIBRARY_PATH") {
        Ok(folders) if !folders.is_empty() => {
            format!("LD_LIBRARY_PATH (`{folders}`) and the system's folders")
        }
        _ => "the system's folders; LD_LIBRARY_PATH says more of them".to_string(),
    };
    format!(
        "{what} was not found: looked for {} in {folders}",
        names.join(", ")
    )
}

fn said(what: &str, error: cudarc::driver::DriverError) -> String {
    let name = error
        .error_name()
        .map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|_| format!("{:?}", error.0));
    format!("{what}: {name}")
}
