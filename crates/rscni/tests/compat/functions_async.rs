//! A plugin in the function style of `rscni` 0.0.x with async functions.

use std::{future::Future, pin::Pin};

use rscni::compat::{
    async_skel::Plugin,
    error::Error,
    types::{Args, CNIResult},
    version::PluginInfo,
};

type Reply = Pin<Box<dyn Future<Output = Result<CNIResult, Error>> + Send>>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut dispatcher = Plugin::new(add, nothing, nothing, PluginInfo::default(), "async");
    dispatcher.run().await.expect("Failed to complete the CNI call");
}

fn add(args: Args) -> Reply {
    Box::pin(async move {
        tokio::task::yield_now().await;
        Ok(args.config.and_then(|conf| conf.prev_result).unwrap_or_default())
    })
}

fn nothing(_args: Args) -> Reply {
    Box::pin(async { Ok(CNIResult::default()) })
}
