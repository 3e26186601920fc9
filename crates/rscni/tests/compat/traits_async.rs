//! A plugin in the trait style of `rscni-plugin` 0.4 and 0.5 with `async-trait`.

use async_trait::async_trait;
use rscni::compat::{
    async_cni::{Cni, Plugin},
    error::Error,
    types::{Args, CNIResult},
};

struct MyAsyncCniPlugin;

#[async_trait]
impl Cni for MyAsyncCniPlugin {
    async fn add(&self, args: Args) -> Result<CNIResult, Error> {
        tokio::task::yield_now().await;
        Ok(args.config().prev_result.clone().unwrap_or_default())
    }

    async fn del(&self, _args: Args) -> Result<(), Error> {
        Ok(())
    }

    async fn check(&self, _args: Args) -> Result<(), Error> {
        Ok(())
    }

    async fn status(&self, _args: Args) -> Result<(), Error> {
        Ok(())
    }

    async fn gc(&self, _args: Args) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::main]
async fn main() {
    let my_cni = MyAsyncCniPlugin;
    let plugin = Plugin::default().msg("My Async CNI Plugin v0.1.0");

    plugin.run(&my_cni).await.expect("Failed to execute CNI command");
}
