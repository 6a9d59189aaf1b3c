BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE artifacts (
	sha256 VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	num_bytes INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	PRIMARY KEY (sha256)
);
INSERT INTO "artifacts" VALUES('a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e','adapter',4000,1795219208.0);
INSERT INTO "artifacts" VALUES('16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4','adapter',4000,1795219212.0);
CREATE TABLE clients (
	client_id VARCHAR(64) NOT NULL, 
	public_key BLOB NOT NULL, 
	node_id VARCHAR(32) NOT NULL, 
	capacity_class VARCHAR(64) NOT NULL, 
	registered_at FLOAT NOT NULL, 
	last_seen_at FLOAT, 
	PRIMARY KEY (client_id)
);
INSERT INTO "clients" VALUES('a',X'7075626C6963206B6579206F6620610A','97','',1795219201.0,NULL);
INSERT INTO "clients" VALUES('b',X'7075626C6963206B6579206F6620620A','98','',1795219202.0,NULL);
CREATE TABLE contributions (
	run_id VARCHAR(64) NOT NULL, 
	round_index INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	client_id VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	message_id VARCHAR(128) NOT NULL, 
	lora_rank INTEGER NOT NULL, 
	bytes_down INTEGER NOT NULL, 
	bytes_up INTEGER NOT NULL, 
	payload_sha256 VARCHAR(64) NOT NULL, 
	weight FLOAT NOT NULL, 
	num_examples INTEGER NOT NULL, 
	error_code VARCHAR(64) NOT NULL, 
	error_message TEXT NOT NULL, 
	PRIMARY KEY (run_id, round_index, attempt, client_id), 
	FOREIGN KEY(run_id, round_index, attempt) REFERENCES rounds (run_id, round_index, attempt)
);
INSERT INTO "contributions" VALUES('r-whole',0,0,'a','RECEIVED','m-r-whole-0-0-a',2,1000,900,'2937013f2181810606b2a799b05bda2849f3e369a20982a4138f0e0a55984ce4',0.5,40,'','');
INSERT INTO "contributions" VALUES('r-whole',0,0,'b','FAILED','m-r-whole-0-0-b',4,1000,0,'',1.0,0,'policy_refused','the owner''s words: ''nein'' — "é"
;');
INSERT INTO "contributions" VALUES('r-whole',1,0,'a','LATE','m-r-whole-1-0-a',2,1000,900,'',1.0,0,'deadline','late');
INSERT INTO "contributions" VALUES('r-whole',1,0,'b','ORDERED','m-r-whole-1-0-b',4,1000,0,'',1.0,0,'','');
INSERT INTO "contributions" VALUES('r-whole',1,1,'a','RECEIVED','m-r-whole-1-1-a',2,1000,900,'2937013f2181810606b2a799b05bda2849f3e369a20982a4138f0e0a55984ce4',0.5,40,'','');
INSERT INTO "contributions" VALUES('r-whole',1,1,'b','RECEIVED','m-r-whole-1-1-b',4,1000,900,'2937013f2181810606b2a799b05bda2849f3e369a20982a4138f0e0a55984ce4',0.5,40,'','');
INSERT INTO "contributions" VALUES('r-plain',0,0,'a','ORDERED','m-r-plain-0-0-a',2,1000,0,'',1.0,0,'','');
INSERT INTO "contributions" VALUES('r-plain',0,0,'b','ORDERED','m-r-plain-0-0-b',4,1000,0,'',1.0,0,'','');
INSERT INTO "contributions" VALUES('r-open',0,0,'a','ORDERED','m-r-open-0-0-a',2,1000,0,'',1.0,0,'','');
INSERT INTO "contributions" VALUES('r-open',0,0,'b','RECEIVED','m-r-open-0-0-b',4,1000,900,'2937013f2181810606b2a799b05bda2849f3e369a20982a4138f0e0a55984ce4',0.5,40,'','');
CREATE TABLE metrics (
	run_id VARCHAR(64) NOT NULL, 
	round_index INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	value FLOAT NOT NULL, 
	PRIMARY KEY (run_id, round_index, name), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id)
);
INSERT INTO "metrics" VALUES('r-whole',0,'relative_error',0.125);
INSERT INTO "metrics" VALUES('r-whole',0,'seconds',1.0);
INSERT INTO "metrics" VALUES('r-whole',1,'late_replies',1.0);
INSERT INTO "metrics" VALUES('r-whole',1,'relative_error',0.125);
INSERT INTO "metrics" VALUES('r-whole',1,'seconds',1.0);
CREATE TABLE privacy_events (
	reservation_id VARCHAR(160) NOT NULL, 
	run_id VARCHAR(64) NOT NULL, 
	round_index INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	client_id VARCHAR(64) NOT NULL, 
	event_json TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reserved_at FLOAT NOT NULL, 
	PRIMARY KEY (reservation_id), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id)
);
INSERT INTO "privacy_events" VALUES('5d226ad170a3caf21fd0bdd14f68c5f5','r-whole',0,0,'a','{"adjacency":"add_remove","kind":"poisson_gaussian","noise_multiplier":1.0,"num_steps":10,"sampling_rate":0.1}','SETTLED',1795219207.0);
INSERT INTO "privacy_events" VALUES('85792c3b30121ce3738aa58e9f116300','r-whole',0,0,'b','{"adjacency":"add_remove","kind":"poisson_gaussian","noise_multiplier":1.0,"num_steps":10,"sampling_rate":0.1}','RESERVED',1795219207.0);
INSERT INTO "privacy_events" VALUES('f5bad10339298b92d000efa35c2363d6','r-whole',1,0,'a','{"adjacency":"add_remove","kind":"poisson_gaussian","noise_multiplier":1.0,"num_steps":10,"sampling_rate":0.1}','RESERVED',1795219209.0);
INSERT INTO "privacy_events" VALUES('1c356d001c119214e1103b02703766f4','r-whole',1,0,'b','{"adjacency":"add_remove","kind":"poisson_gaussian","noise_multiplier":1.0,"num_steps":10,"sampling_rate":0.1}','RESERVED',1795219209.0);
INSERT INTO "privacy_events" VALUES('a8f5218bbc37e5d1235939009a455add','r-whole',1,1,'a','{"adjacency":"add_remove","kind":"poisson_gaussian","noise_multiplier":1.0,"num_steps":10,"sampling_rate":0.1}','SETTLED',1795219211.0);
INSERT INTO "privacy_events" VALUES('15f069262053e59d435750f2c9d4bc79','r-whole',1,1,'b','{"adjacency":"add_remove","kind":"poisson_gaussian","noise_multiplier":1.0,"num_steps":10,"sampling_rate":0.1}','SETTLED',1795219211.0);
INSERT INTO "privacy_events" VALUES('95d72a3c593babfbf187939f655c0019','r-open',0,0,'a','{"adjacency":"add_remove","kind":"poisson_gaussian","noise_multiplier":1.0,"num_steps":10,"sampling_rate":0.1}','RESERVED',1795219216.0);
INSERT INTO "privacy_events" VALUES('56345db96af755a2efa8afd25d464d0e','r-open',0,0,'b','{"adjacency":"add_remove","kind":"poisson_gaussian","noise_multiplier":1.0,"num_steps":10,"sampling_rate":0.1}','SETTLED',1795219216.0);
CREATE TABLE rounds (
	run_id VARCHAR(64) NOT NULL, 
	round_index INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	start_sha256 VARCHAR(64) NOT NULL, 
	adapter_sha256 VARCHAR(64) NOT NULL, 
	deadline_at FLOAT NOT NULL, 
	started_at FLOAT NOT NULL, 
	closed_at FLOAT, 
	relative_error FLOAT, 
	reason TEXT NOT NULL, 
	PRIMARY KEY (run_id, round_index, attempt), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id)
);
INSERT INTO "rounds" VALUES('r-whole',0,0,'CLOSED','cced28c6dc3f99c2396a5eaad732bf6b28142335892b1cd0e6af6cdb53f5ccfa','a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e',1795219212.0,1795219207.0,1795219208.0,0.125,'');
INSERT INTO "rounds" VALUES('r-whole',1,0,'ABORTED','cced28c6dc3f99c2396a5eaad732bf6b28142335892b1cd0e6af6cdb53f5ccfa','',1795219214.0,1795219209.0,1795219210.0,NULL,'1 of 2 answered');
INSERT INTO "rounds" VALUES('r-whole',1,1,'CLOSED','cced28c6dc3f99c2396a5eaad732bf6b28142335892b1cd0e6af6cdb53f5ccfa','16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4',1795219216.0,1795219211.0,1795219212.0,0.125,'');
INSERT INTO "rounds" VALUES('r-plain',0,0,'PLANNED','cced28c6dc3f99c2396a5eaad732bf6b28142335892b1cd0e6af6cdb53f5ccfa','',1795219219.0,1795219214.0,NULL,NULL,'');
INSERT INTO "rounds" VALUES('r-open',0,0,'PLANNED','cced28c6dc3f99c2396a5eaad732bf6b28142335892b1cd0e6af6cdb53f5ccfa','',1795219221.0,1795219216.0,NULL,NULL,'');
CREATE TABLE runs (
	run_id VARCHAR(64) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	recipe_json TEXT NOT NULL, 
	recipe_sha256 VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, 
	cancel_requested BOOLEAN NOT NULL, 
	adapter_sha256 VARCHAR(64) NOT NULL, 
	created_at FLOAT NOT NULL, 
	finished_at FLOAT, 
	PRIMARY KEY (run_id)
);
INSERT INTO "runs" VALUES('r-whole','golden','{"adapter":{"alpha":"2r","dropout":0.0,"layers":null,"lora_rank":2,"serving_lora_rank":null,"targets":["query","value"]},"base_model":{"hub":null,"material":null,"path":null,"tiny":"tiny-bert"},"cohort":{"clients":["a","b"],"deadline_s":600.0,"minimum":1,"weights":"uniform"},"data":{"classes":null,"label_column":"label","material":null,"partition":{"alpha":0.3,"by":"natural","examples_per_client":null,"num_clients":null},"path":"none.jsonl","test_examples":1000,"text_column":"text"},"method":{"basis":"svd","energy":0.95,"name":"flora","objective":"ridge","ridge":0.01,"train_adapter":true},"name":"golden","privacy":{"clipping_norm":1.0,"epsilon_limit":null,"expected_cohort":null,"max_examples_per_person":null,"noise_multiplier":1.0,"sampling_rate":0.1,"target_delta":1e-05,"target_epsilon":null,"unit":"example","unit_column":null},"seed":0,"task":{"kind":"sequence-classification","max_length":64,"num_labels":2,"pooling":"mean"},"training":{"algorithm":"fedavg","expected_batch_size":16,"head_learning_rate":null,"learning_rate":0.001,"learning_rate_decay":1.0,"local_steps":10,"max_grad_norm":null,"optimizer":"adam","proximal_weight":0.01,"rounds":3}}','638cf0075bbb814c7c514b2aa34289462fccde0825ba521d078ca362a6275066','FINISHED','',0,'16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4',1795219203.0,1795219213.0);
INSERT INTO "runs" VALUES('r-open','golden','{"adapter":{"alpha":"2r","dropout":0.0,"layers":null,"lora_rank":2,"serving_lora_rank":null,"targets":["query","value"]},"base_model":{"hub":null,"material":null,"path":null,"tiny":"tiny-bert"},"cohort":{"clients":["a","b"],"deadline_s":600.0,"minimum":1,"weights":"uniform"},"data":{"classes":null,"label_column":"label","material":null,"partition":{"alpha":0.3,"by":"natural","examples_per_client":null,"num_clients":null},"path":"none.jsonl","test_examples":1000,"text_column":"text"},"method":{"basis":"svd","energy":0.95,"name":"flora","objective":"ridge","ridge":0.01,"train_adapter":true},"name":"golden","privacy":{"clipping_norm":1.0,"epsilon_limit":null,"expected_cohort":null,"max_examples_per_person":null,"noise_multiplier":1.0,"sampling_rate":0.1,"target_delta":1e-05,"target_epsilon":null,"unit":"example","unit_column":null},"seed":0,"task":{"kind":"sequence-classification","max_length":64,"num_labels":2,"pooling":"mean"},"training":{"algorithm":"fedavg","expected_batch_size":16,"head_learning_rate":null,"learning_rate":0.001,"learning_rate_decay":1.0,"local_steps":10,"max_grad_norm":null,"optimizer":"adam","proximal_weight":0.01,"rounds":3}}','638cf0075bbb814c7c514b2aa34289462fccde0825ba521d078ca362a6275066','RUNNING','',0,'',1795219204.0,NULL);
INSERT INTO "runs" VALUES('r-plain','golden','{"adapter":{"alpha":"2r","dropout":0.0,"layers":null,"lora_rank":2,"serving_lora_rank":null,"targets":["query","value"]},"base_model":{"hub":null,"material":null,"path":null,"tiny":"tiny-bert"},"cohort":{"clients":["a","b"],"deadline_s":600.0,"minimum":1,"weights":"uniform"},"data":{"classes":null,"label_column":"label","material":null,"partition":{"alpha":0.3,"by":"natural","examples_per_client":null,"num_clients":null},"path":"none.jsonl","test_examples":1000,"text_column":"text"},"method":{"basis":"svd","energy":0.95,"name":"flora","objective":"ridge","ridge":0.01,"train_adapter":true},"name":"golden","privacy":null,"seed":0,"task":{"kind":"sequence-classification","max_length":64,"num_labels":2,"pooling":"mean"},"training":{"algorithm":"fedavg","expected_batch_size":16,"head_learning_rate":null,"learning_rate":0.001,"learning_rate_decay":1.0,"local_steps":10,"max_grad_norm":null,"optimizer":"adam","proximal_weight":0.01,"rounds":3}}','8652e76b01777692501fe00897d535942b3266592b216370d15e8fcd15f5d7a8','CANCELLED','asked for',1,'',1795219205.0,1795219215.0);
INSERT INTO "runs" VALUES('r-queued','golden','{"adapter":{"alpha":"2r","dropout":0.0,"layers":null,"lora_rank":2,"serving_lora_rank":null,"targets":["query","value"]},"base_model":{"hub":null,"material":null,"path":null,"tiny":"tiny-bert"},"cohort":{"clients":["a","b"],"deadline_s":600.0,"minimum":1,"weights":"uniform"},"data":{"classes":null,"label_column":"label","material":null,"partition":{"alpha":0.3,"by":"natural","examples_per_client":null,"num_clients":null},"path":"none.jsonl","test_examples":1000,"text_column":"text"},"method":{"basis":"svd","energy":0.95,"name":"flora","objective":"ridge","ridge":0.01,"train_adapter":true},"name":"golden","privacy":null,"seed":0,"task":{"kind":"sequence-classification","max_length":64,"num_labels":2,"pooling":"mean"},"training":{"algorithm":"fedavg","expected_batch_size":16,"head_learning_rate":null,"learning_rate":0.001,"learning_rate_decay":1.0,"local_steps":10,"max_grad_norm":null,"optimizer":"adam","proximal_weight":0.01,"rounds":3}}','8652e76b01777692501fe00897d535942b3266592b216370d15e8fcd15f5d7a8','QUEUED','',0,'',1795219206.0,NULL);
CREATE INDEX ix_runs_state ON runs (state);
CREATE INDEX ix_privacy_events_client_id ON privacy_events (client_id);
CREATE INDEX ix_privacy_events_run_client ON privacy_events (run_id, client_id);
COMMIT;
