//! What a worker needs for its job, whatever the generation.

use std::sync::Arc;

use burn::tensor::Device;
use perennial_collective::{MeshTls, ReplicaServer, TcpEndpoint};
use perennial_data::{DataSet, Pipeline};
use perennial_kernels::ComputeDevice;
use perennial_model::Network;
use perennial_plan::order::steps_per_epoch;
use perennial_plan::{Cursor, Spec};
use perennial_proto::v1::Ready;
use perennial_session::{Report, Reporter};
use perennial_store::Store;
use perennial_train::LearningRate;

use crate::WorkerOptions;
use crate::checkpointing::CheckpointWriter;
use crate::error::WorkerError;
use crate::evaluating::{Evaluated, pictures};
use crate::shared::SharedReplica;
use crate::slots::Cores;
use crate::transport::Transport;

/// The job, as this worker sees it.
pub(crate) struct JobContext {
    pub spec: Spec,
    pub pipeline: Arc<Pipeline>,
    pub network: Network,
    pub store: Store,
    pub steps_per_epoch: u32,
    pub schedule: LearningRate,
    /// What is measured, where the job is an evaluation.
    pub evaluated: Option<Evaluated>,
}

/// A worker that has read its data and built its network.
pub(crate) struct Worker {
    pub job: Arc<JobContext>,
    pub replica: Arc<SharedReplica>,
    pub endpoint: TcpEndpoint,
    pub transport: Transport,
    /// What its connections to other members are encrypted with.
    pub tls: Option<MeshTls>,
    /// Where slots are computed.
    pub device: Device,
    /// Whether what a step changes lives there, rather than on the host.
    pub resides: bool,
    pub cores: Cores,
    pub threads: usize,
    pub checkpoints: CheckpointWriter,
    pub reporter: Reporter,
    /// Hands the replica out as long as the worker lives.
    _server: ReplicaServer,
}

// === impl JobContext ===

impl JobContext {
    fn open(spec: Spec, store_url: &str, device: ComputeDevice) -> Result<Self, WorkerError> {
        let store = Store::open(store_url)?;
        let pipeline = match &spec.evaluate {
            None => Pipeline::open(&spec)?.0,
            Some(evaluate) => Pipeline::new(pictures(evaluate, &spec.data)?, &spec),
        };
        // To a GPU go the bytes, a quarter of the values.
        let pipeline = pipeline.raw(device.is_gpu());
        let network = Network::new(&spec.model, pipeline.data().classes.len())?;
        let evaluated = match &spec.evaluate {
            None => None,
            Some(evaluate) => {
                let job = store.job(&spec.name)?;
                Some(Evaluated::load(&job, evaluate, &network, pipeline.data())?)
            }
        };
        let samples = samples(&spec, pipeline.data());
        let steps_per_epoch = steps_per_epoch(samples, spec.train.batch_size as usize);
        let schedule = LearningRate::new(
            &spec.schedule,
            spec.optimizer.learning_rate,
            spec.train.epochs,
            u64::from(steps_per_epoch),
        );
        Ok(Self {
            spec,
            pipeline: Arc::new(pipeline),
            network,
            store,
            steps_per_epoch,
            schedule,
            evaluated,
        })
    }

    /// The samples that an epoch goes over.
    pub fn samples(&self) -> usize {
        samples(&self.spec, self.pipeline.data())
    }

    /// The cursor after so many steps.
    pub fn cursor(&self, global_step: u64) -> Cursor {
        let steps = u64::from(self.steps_per_epoch);
        Cursor {
            epoch: (global_step / steps) as u32,
            step: (global_step % steps) as u32,
        }
    }
}

fn samples(spec: &Spec, data: &DataSet) -> usize {
    match spec.evaluate {
        None => data.train.len(),
        Some(_) => data.val.len(),
    }
}

// === impl Worker ===

impl Worker {
    /// Reads the data, builds the network, listens, and says so.
    pub fn prepare(
        options: &WorkerOptions,
        spec: Spec,
        store_url: &str,
        reporter: &Reporter,
    ) -> Result<Self, WorkerError> {
        let transport = Transport::open(options.device, spec.train.reduction)?;
        let job = Arc::new(JobContext::open(spec, store_url, options.device)?);
        let replica = Arc::new(SharedReplica::new(options.threads));
        let (sums, copies) = (&options.collective, &options.replica);
        let tls = MeshTls::of(&options.security)?;
        let (endpoint, collective_address) = TcpEndpoint::bind(&sums.listen(&options.host))?;
        options.security.may_listen(collective_address)?;
        let (server, replica_address) = ReplicaServer::bind_encrypted(
            &copies.listen(&options.host),
            &job.spec.name,
            replica.clone(),
            tls.clone(),
        )?;
        options.security.may_listen(replica_address)?;
        let checkpoints = CheckpointWriter::new(&job, &replica, reporter)?;
        let device = options.device.open()?;
        let cores = Cores::of(options.device, options.threads)?;
        let data = job.pipeline.data();
        reporter.send(Report::Ready(Ready {
            data_fingerprint: data.fingerprint()?,
            train_samples: job.samples() as u64,
            val_samples: data.val.len() as u64,
            classes: data.classes.clone(),
            skipped: data.skipped as u64,
            parameters: job.network.table.parameters_len() as u64,
            collective_address: sums.announce(collective_address),
            replica_address: copies.announce(replica_address),
        }));
        Ok(Self {
            job,
            replica,
            endpoint: endpoint.encrypted(tls.clone()),
            transport,
            tls,
            device,
            resides: options.device.is_gpu(),
            cores,
            threads: options.threads,
            checkpoints,
            reporter: reporter.clone(),
            _server: server,
        })
    }
}
