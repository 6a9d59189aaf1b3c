"""What every key of a recipe means, in one line each: for docs/recipe.md and for error messages.

A test holds that each field of the model has its line here, and no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MEANINGS: Mapping[str, str] = {
    "name": "name of the run: letters, digits, dot, dash, underscore, at most 63",
    "seed": "drives everything but the noise and the sampling of a private run, which come from the "
    "operating system",
    "base_model": "the frozen transformer that everyone starts from; set exactly one of its keys",
    "base_model.material": "real weights by name; `motet materials fetch` brings them",
    "base_model.path": "a local folder in the Hugging Face layout",
    "base_model.hub": "a hub id, fetched once",
    "base_model.tiny": "a random model of a few thousand parameters, for tests",
    "task": "what is learned",
    "task.kind": "a class for each text, the next token, or a class for each picture",
    "task.num_labels": "number of classes; needed by both kinds of classification, and only there",
    "task.max_length": "tokens a text, the rest is cut off",
    "task.image_size": "pixels a side of the square that a picture is cut and resized to",
    "task.pooling": "how an encoder's vectors become one: the mean of its tokens or patches, or the model's own "
    "(a pooler, the class token)",
    "data": "where examples come from; set exactly one of material, path",
    "data.material": "real texts or pictures by name; `motet materials fetch` brings them",
    "data.path": "a JSONL or CSV file, or a folder with `<client_id>.jsonl` files and `test.jsonl`; of pictures "
    "also `<class>/*.png`, or `<client_id>/<class>/*.png` and `test/<class>/*.png`",
    "data.classes": "names of class folders in label order; of `newsgroups` and Fashion-MNIST: keep these classes "
    "only, numbered in the order written",
    "data.text_column": "column of the text",
    "data.label_column": "column of the label, a whole number from 0",
    "data.test_examples": "held-out examples; their source documents are never trained on",
    "data.partition": "how one data set is dealt to simulated clients; deployed clients bring their own "
    "files",
    "data.partition.by": "natural: a client for each group of the data; dirichlet: skewed labels; iid: a "
    "shuffled deal",
    "data.partition.alpha": "of Dirichlet(alpha): small is skewed, large is even",
    "data.partition.num_clients": "number of clients; needed by dirichlet and iid unless cohort.clients "
    "names them",
    "data.partition.examples_per_client": "the most that a client keeps",
    "adapter": "the low-rank adapter",
    "adapter.lora_rank": "one rank for all, or a map from client id or capacity class to rank; `default` "
    "is for the rest",
    "adapter.alpha": "scale times rank: a number, or a multiple of each client's rank such as `2r`",
    "adapter.targets": "endings of the names of adapted layers",
    "adapter.layers": "indices, from 0, of adapted blocks; absent: all",
    "adapter.dropout": "share of the adapter's inputs that is dropped in training",
    "adapter.serving_lora_rank": "the most that servers of the result take: exports are cut to it by SVD and tell "
    "the error; absent: as learned",
    "adapter.rank_policy": "assigned: ranks as written; measured: each client measures the largest rank that fits its "
    "owner's `max_memory_mb` and `max_round_seconds`, and trains that, at most as written",
    "adapter.lora_rank_schedule": "caps on all ranks from a round on, in ascending rounds; growing keeps the product, "
    "cutting keeps the best of the new rank and tells the error",
    "adapter.lora_rank_schedule.from_round": "the first round, from 0, that the cap holds for",
    "adapter.lora_rank_schedule.lora_rank": "the most that a client trains from then on",
    "method": "how updates become one",
    "method.name": "which of the methods of docs/methods.md; `flora` is exact and takes mixed ranks",
    "method.ridge": "of lora-fair: weight of staying near the mean",
    "method.objective": "of lora-fair: which measure of unlikeness is made small",
    "method.energy": "of florist: share of the squared singular values that is kept",
    "method.basis": "of fed-sb: frozen factors from the weight's SVD, random orthonormal, or the leading directions of "
    "the loss's gradient: on `public_data`, or on the clients' own data (gradient_sketch), which takes the first two "
    "of `training.rounds` and is charged as they are",
    "method.public_data": "of basis public_gradient: examples that are nobody's secret, the same at everyone; set one "
    "of material and path",
    "method.public_data.material": "a data set by name, other than the run's own; everyone has fetched it",
    "method.public_data.path": "a JSONL or CSV file with the columns of the run's data, at this path everywhere",
    "method.public_data.sha256": "of the file at path, as sha256sum prints it; another content is refused, and so is a "
    "private run where the owner's `public_files` has not named it",
    "method.public_data.num_examples": "how many are drawn, by the seed; more than the file has is an error",
    "method.self_pruning": "of hetlora: a client cuts its own rank where the tail of its product shrank in a round, "
    "and keeps to that rank; absent: ranks stay",
    "method.self_pruning.decay": "a rank r is cut to floor(decay r), at least 1; what lies beyond is the tail",
    "method.self_pruning.penalty_weight": "weight beside the loss of the tail's size: the norm of B's part times A's",
    "method.train_adapter": "false: the head alone is trained (a baseline)",
    "training": "local work of one client in one round",
    "training.rounds": "rounds of the run",
    "training.local_steps": "optimiser steps of a client in a round",
    "training.expected_batch_size": "public divisor of a summed batch; batches are Poisson samples of this "
    "mean size",
    "training.optimizer": "adam or sgd",
    "training.learning_rate": "of the adapter",
    "training.learning_rate_decay": "both rates are multiplied by it after each round",
    "training.head_learning_rate": "of the head; absent: as the adapter's",
    "training.max_grad_norm": "L2 bound on a batch's gradient; for runs without privacy",
    "training.algorithm": "fedavg: plain local steps; fedprox: with a pull towards the round's start, which keeps "
    "clients of unlike data together; scaffold: with control variates, which take the drift of unlike data out of "
    "each step",
    "training.proximal_weight": "of fedprox: mu in mu / 2 times the squared distance to the round's start, over all "
    "that trains",
    "cohort": "who takes part",
    "cohort.clients": "client ids; absent: everyone who is there",
    "cohort.minimum": "replies that are enough to close a round at its deadline; fewer abort it (not with "
    "privacy.unit client, where every round closes)",
    "cohort.deadline_s": "seconds that a round waits for replies",
    "cohort.draw_rate": "each client takes part in a round with this probability; at least `minimum` do",
    "cohort.over_select": "ask so many times `minimum` clients and close at `minimum`, the others are late; "
    "absent: ask all and wait for all",
    "cohort.weights": "weight of each client in the mean; num_examples is refused in a private run",
    "robust": "what bounds wrong clients, by their changes as products; see docs/methods.md",
    "robust.clip_factor": "always on: nobody counts for more than a change so many times as long as the "
    "median of the round",
    "robust.rule": "none: the clip alone; geometric_median, multi_krum and trimmed weigh clients; the "
    "coordinate rules are for fed-sb",
    "robust.num_bad": "clients that may be wrong, of multi_krum, trimmed and coordinate_trimmed_mean; cohort.minimum "
    "must outvote them",
    "server_optimizer": "how the mean of a round moves the global adapter; for fed-sb, ffa, rolora, fedsa, and heads "
    "alone",
    "server_optimizer.rule": "fedavg: take the mean; fedavgm: momentum; the others also size each number's step",
    "server_optimizer.learning_rate": "of the coordinator; absent: 1 for fedavgm, 0.01 for the others",
    "server_optimizer.beta1": "share of the last momentum that is kept",
    "server_optimizer.beta2": "share of the last squared size that is kept (fedadam, fedyogi)",
    "server_optimizer.tau": "how small a change is not made larger",
    "compression": "smaller uploads: what a client moved, in fewer bits; absent: none",
    "compression.kind": "bf16; int8 or int4 in blocks with one size each; compeft: the largest few, as signs times one "
    "size",
    "compression.block": "numbers that share a size (int8, int4)",
    "compression.density": "share of the numbers that is sent (compeft)",
    "compression.error_feedback": "add what one message left out to the next; absent: where the method allows it",
    "evaluation": "each client judges what a round starts from on examples of its own that it does not train on; "
    "owners whose policy says `share_accuracy = true` tell the figures; without privacy only; absent: none",
    "evaluation.held_out": "share of each client's source documents, chosen by a hash of document and seed, that is "
    "kept out of training; too few for it are told of by an error, and fewer than 5 held-out examples tell no figure",
    "evaluation.max_examples": "the most of them that a client judges on",
    "trackers": "where the coordinator records figures of closed rounds; a list of names, such as [jsonl, wandb], or a "
    "map; docs/trackers.md says what is recorded of private runs",
    "trackers.jsonl": "one line a round, `rounds.jsonl`",
    "trackers.tensorboard": "TensorBoard's event files",
    "trackers.mlflow": "an SQLite file of MLflow's",
    "trackers.mlflow.project": "the experiment",
    "trackers.wandb": "W&B, offline: nothing is sent",
    "trackers.wandb.project": "the project",
    "privacy": "differential privacy (add/remove neighbours); absent: none",
    "privacy.unit": "what is protected: an example or a person (DP-SGD at the client), or a client's whole data "
    "(noise on the coordinator's sum: the coordinator is trusted)",
    "privacy.unit_column": "of unit person: column that says whose an example is",
    "privacy.max_examples_per_person": "of unit person: examples of a person that a step uses; more are drawn from",
    "privacy.expected_cohort": "of unit client: public divisor of the noised sum; absent: sampling_rate times the "
    "number of cohort.clients",
    "privacy.clipping_norm": "L2 bound over all trained tensors: on an example's gradient, on the sum of a person's, "
    "or on a client's whole change in a round",
    "privacy.noise_multiplier": "noise standard deviation over clipping_norm; or set target_epsilon",
    "privacy.target_epsilon": "of the whole run, for each client's data; or set noise_multiplier",
    "privacy.target_delta": "delta of every epsilon here; keep it well under 1 / number of examples",
    "privacy.sampling_rate": "public probability with which an example or a person joins a step, or a client a round",
    "privacy.epsilon_limit": "the run is refused a round that would take a client's data over this",
}
