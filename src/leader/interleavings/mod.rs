//! A few actors with a few steps each, at every interleaving: all orders of the steps are tried, on
//! the real thing and in virtual time.

mod publications;
mod topics;

use tokio::task::yield_now;

pub(super) use self::topics::between;

/// One way through all choices, and then the next.
#[derive(Default)]
struct Choices {
    /// What was chosen, and of how many.
    path: Vec<(usize, usize)>,
    at: usize,
}

impl Choices {
    fn choose(&mut self, of: usize) -> usize {
        if self.at == self.path.len() {
            self.path.push((0, of));
        }
        let (chosen, before) = self.path[self.at];
        assert_eq!(before, of, "the same choices lead to the same place");
        self.at += 1;
        chosen
    }

    /// False: all were tried.
    fn next(&mut self) -> bool {
        self.at = 0;
        while let Some((chosen, of)) = self.path.pop() {
            if chosen + 1 < of {
                self.path.push((chosen + 1, of));
                return true;
            }
        }
        false
    }
}

/// Lets all tasks run until they wait.
async fn settle() {
    for _ in 0..4 {
        yield_now().await;
    }
}
