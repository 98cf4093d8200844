//! Makes the crate from the `.proto` file, in Rust alone: protox parses it, no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(["perennial/v1/coordinator.proto"], ["."])?;
    tonic_prost_build::configure()
        // Shared by the messages to all members, not copied.
        .bytes(".perennial.v1.Start.generation")
        // As it is told to people and programs.
        .type_attribute(".perennial.v1.DeviceMemory", "#[derive(serde::Serialize)]")
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=perennial/v1/coordinator.proto");
    Ok(())
}
