# `make help` lists the targets. Give settings on the command line: make run PORT=8090 SIZES=800,200
SHELL = /bin/sh
.DEFAULT_GOAL = help
USE = run reconcile model model-archive redescribe import
DEPLOY = plan deploy verify backfill rollback logs open destroy
DEVELOP = test lint lock audit train evaluate prove estimates bench bench-cold bench-database chaos soak fuzz scaling samples screenshots
.PHONY: help sweep torture $(USE) $(DEPLOY) $(DEVELOP)

PORT ?= 8080
STATE ?= .dropcap
MODEL ?= Salesforce/blip-image-captioning-base
# Two for each processor, because many tests wait for servers.
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) \* 2)
RUN = .venv/bin/python
DEV = .venv-dev/bin/python
EXPORT = .venv-model/bin/python
# A variable as one shell word. Make neither expands its value nor exports it.
quoted = '$(subst ','\'',$(value $(1)))'
unexport MODEL ARCHIVE COCO PICTURES PHOTOGRAPHS EXTENSION
NAMED = $(call quoted,MODEL)
# A ready model (an address, an archive, or a folder with a card) is installed without PyTorch.
READY = $(shell case $(NAMED) in (*://* | *.tar | *.tar?sha256=*) echo 1 ;; \
    (*) if [ -f $(NAMED) ] || [ -f $(NAMED)/model.json ]; then echo 1; fi ;; esac)
# Fails for anything that is not a checkpoint either, before PyTorch is downloaded.
CHECKPOINT = case $(NAMED) in ('' | random-base) ;; \
    (*) [ -f $(NAMED)/config.json ] || printf '%s' $(NAMED) | grep -Eq '^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+(@[A-Za-z0-9._/-]+)?$$' ;; esac
LOCK = $(DEV) -m uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
    --custom-compile-command 'make lock'
# redescribe changes a deployment only with PROJECT; without it, what make run started.
CLOUD = $(DEPLOY) $(if $(PROJECT),redescribe)
ifneq ($(filter $(CLOUD),$(MAKECMDGOALS)),)
-include settings.mk
endif
# gettext uses the same variable, and Ubuntu sets it to values like en_US:en: ignore those.
ifeq ($(origin LANGUAGE),environment)
ifneq ($(findstring _,$(LANGUAGE))$(findstring :,$(LANGUAGE)),)
unexport LANGUAGE
endif
endif
export PYTHONPATH = functions
export ORT_DISABLE_TELEMETRY = 1
# google-api-core prints a notice about Python versions at each start.
export PYTHONWARNINGS = ignore::FutureWarning:google.api_core._python_version_support

# Prints the targets by group. Variables, after the bar, begin a line; no line is wider than 80 columns.
define HELP
function show(name, text, count, words, i, word, line) {
    count = split(text, words, " ")
    line = sprintf("  make %-14s", name)
    for (i = 1; i <= count; i++) {
        word = words[i]
        while (gsub(/"/, "\"", word) % 2) word = word " " words[++i]
        if (word == "|" || length(line word) > 79) { print line; line = sprintf("%21s", "") }
        if (word != "|") line = line " " word
    }
    print line
}
/^[a-z-]+:.*## / { name = $$1; sub(/:.*/, "", name); sub(/.*## /, ""); texts[name] = $$0 }
END {
    count = split(groups, lines, "\n")
    for (i = 1; i <= count; i++) {
        many = split(lines[i], names, " ")
        print (i > 1 ? "\n" : "") names[1]
        for (n = 2; n <= many; n++) show(names[n], texts[names[n]])
    }
}
endef
export HELP

help: ## list the targets
	@sed -n 's/^version = "\(.*\)"/Dropcap \1/p' pyproject.toml
	@awk -v 'groups=use: $(USE)\ndeploy: $(DEPLOY)\ndevelop: $(DEVELOP)' "$$HELP" Makefile

run: .venv/installed ## start everything on this machine and drop pictures | MODEL=... PORT=8080 ONCE=1 PICTURES="a.jpg folder" STATE=.dropcap
	@exec $(RUN) -m infra.local.run --port $(PORT) --state $(STATE) \
	    $(if $(STORAGE_PORT),--storage-port $(STORAGE_PORT)) $(if $(POSTGRES_PORT),--postgres-port $(POSTGRES_PORT)) \
	    $(if $(filter command,$(origin MODEL)),--model=$(NAMED)) $(if $(SVG),--svg $(SVG)) $(if $(ONCE),--once) -- $(PICTURES)

reconcile: .venv/installed ## finish what no event finished in the stack of make run | STATE=.dropcap
	@$(RUN) -m infra.local.reconcile --state $(STATE)

# Deprecated: `make reconcile` has the same options.
sweep:
	@echo "make: sweep is deprecated, use make reconcile" >&2
	@$(MAKE) --no-print-directory reconcile

test: .venv-dev/installed .venv-model/installed ## run all tests, in parallel | JOBS=4
	@$(DEV) -m pytest -n $(JOBS) --dist worksteal

lint: .venv-dev/installed ## check style, types and imports
	@$(DEV) -m ruff check .
	@$(DEV) -m ruff format --check .
	@$(DEV) -m mypy
	@.venv-dev/bin/lint-imports

# The wheel is reproducible: its timestamps are fixed, and setuptools is locked. Without the package pkgconfig, pyvips
# compiles nothing.
lock: .venv-dev/installed ## renew each requirements.txt that has a requirements.in, with hashes
	@rm -f functions/wheels/*.whl
	@SOURCE_DATE_EPOCH=315532800 $(DEV) -m pip wheel --quiet --disable-pip-version-check --no-cache-dir --no-deps \
	    --no-build-isolation --no-binary pyvips --wheel-dir functions/wheels pyvips
	@$(LOCK) infra/pip.in --output-file infra/pip.txt
	@$(LOCK) --emit-find-links --emit-build-options functions/requirements.in --output-file functions/requirements.txt
	@$(LOCK) infra/requirements.in --constraint functions/requirements.txt --output-file infra/requirements.txt
	@$(LOCK) requirements.in --constraint functions/requirements.txt --constraint infra/requirements.txt \
	    --output-file requirements.txt

audit: .venv-dev/installed ## look for known vulnerabilities in what is deployed; fail without an answer
	@$(DEV) -m infra.audit functions/requirements.txt

train: .venv-model/installed ## train the small BLIP from nothing, export and evaluate it (two hours)
	@$(EXPORT) -m model_export train
	@cp build/checkpoint/scenes.safetensors model_export/training/
	@$(EXPORT) -m model_export export --bits 4 --check 1000
	@$(EXPORT) -m model_export evaluate

model: $(if $(filter model,$(MAKECMDGOALS)),$(if $(READY),.venv/installed)) ## install another BLIP: a name of the hub, folder, archive or https address | MODEL=Salesforce/blip-image-captioning-base RESOLUTION=288 MERGE=16 DECODER_BITS=4
ifneq ($(if $(filter model,$(MAKECMDGOALS)),$(READY)),)
ifneq ($(RESOLUTION)$(MERGE)$(DECODER_BITS),)
	@echo "make: RESOLUTION, MERGE and DECODER_BITS are chosen when a checkpoint is exported, and MODEL is ready: omit them" >&2; exit 2
endif
	@$(RUN) -m model_export install -- $(NAMED)
else
	@$(CHECKPOINT) || { printf 'make: no model in %s: name a repository of the hub, a folder, an archive or an https address\n' $(NAMED) >&2; exit 2; }
	@[ -e .venv-model/installed ] || printf '%s\n' "This downloads PyTorch (0.5 GB, once), and for BLIP-base 1 GB more. It takes 2 to" \
	    "5 minutes, 6 GB of disk and 4 GB of memory."
	@HUB_MODEL=$(NAMED) $(MAKE) --no-print-directory --silent .venv-model/installed
	@$(EXPORT) -m model_export export --checkpoint=$(NAMED) $(if $(RESOLUTION),--resolution $(RESOLUTION)) \
	    $(if $(MERGE),--merge $(MERGE)) $(if $(DECODER_BITS),--bits $(DECODER_BITS))
endif

model-archive: .venv/installed ## write functions/model as an archive for make model | ARCHIVE=blip.tar
	@$(RUN) -m model_export archive $(if $(ARCHIVE),--out $(call quoted,ARCHIVE))

evaluate: .venv-model/installed ## captions and confidence before and after quantization | COCO=captions_val2017.json PICTURES=val2017 COUNT=1000 BITS=all PHOTOGRAPHS=folder
	@$(EXPORT) -m model_export evaluate $(if $(COCO),--coco $(call quoted,COCO) --pictures $(call quoted,PICTURES)) \
	    $(if $(COUNT),--count $(COUNT)) $(if $(BITS),--bits $(BITS)) $(EVALUATE)
	@$(if $(COCO),,$(EXPORT) -m model_export confidence $(if $(PHOTOGRAPHS),--photographs $(call quoted,PHOTOGRAPHS)))

prove: .venv-dev/installed .venv-model/installed build/random-base/model.json ## run BLIP-base in 512 MiB that the kernel enforces | PROVE="--uploads 100 --no-naive"
	@$(DEV) -m tests.memory $(PROVE)

estimates: .venv-dev/installed ## each decoder's peak memory beside its estimate, for every kind of file | ESTIMATES="--only TIFF --width 3000"
	@$(DEV) -m tests.memory.estimates $(ESTIMATES)

bench: .venv-deployed/installed .venv-dev/installed .venv-model/installed .venv-bench/installed build/random-base/model.json ## time and memory beside other ways to caption and resize | BENCH="--rounds 9"
	@$(DEV) -m tests.bench $(BENCH)

bench-cold: .venv-deployed/installed .venv-dev/installed build/random-base/model.json ## the parts of a cold start, to the first caption | BENCH="--cpus 2 --against ../other"
	@$(DEV) -m tests.bench.cold $(BENCH)

bench-database: .venv-dev/installed ## time of each database operation at 10 million analyses | BENCH="--analyses 100000"
	@$(DEV) -m tests.bench.database $(BENCH)

chaos: .venv-dev/installed ## kill, duplicate and fail at random, and check every promise | CHAOS="--seed 7 --kills 50"
	@$(DEV) -m tests.chaos $(CHAOS)

# Deprecated: `make chaos` has the same options, in CHAOS.
torture:
	@echo "make: torture is deprecated, use make chaos$(if $(TORTURE), CHAOS='$(TORTURE)')" >&2
	@$(MAKE) --no-print-directory chaos CHAOS="$(CHAOS) $(TORTURE)"

soak: .venv-dev/installed ## send 2,000 uploads through one instance, and check that nothing grows | SOAK="--uploads 200"
	@$(DEV) -m tests.chaos.soak $(SOAK)

fuzz: .venv-dev/installed ## send hostile bytes to every parser and to the whole decoder (Linux on x86-64) | SECONDS=60 TARGET=all FUZZ="--seed 7"
	@$(DEV) -m tests.fuzz $(if $(SECONDS),--seconds $(SECONDS)) $(if $(TARGET),--target $(call quoted,TARGET)) $(FUZZ)

scaling: .venv-dev/installed ## compute which limit a growing load meets first | SCALING="--write"
	@$(DEV) -m tests.capacity $(SCALING)

samples: .venv-dev/installed ## draw the sample pictures
	@$(DEV) -m model_export samples

screenshots: .venv-dev/installed ## photograph the gallery into build/screenshots | SCREENSHOTS="--write"
	@$(DEV) -m tests.support.browser.screenshots $(SCREENSHOTS)

import: .venv/installed ## take over the settings of Firebase's Resize Images | EXTENSION=extensions/NAME.env PROJECT=my-project FORCE=1
	@$(RUN) -m infra.resize_images $(if $(PROJECT),--project $(call quoted,PROJECT)) $(if $(FORCE),--force) $(call quoted,EXTENSION)

plan: .venv/installed ## show what make deploy would change | PROJECT=my-project COMMANDS=1
	@$(RUN) -m infra.cloud plan

deploy: .venv/installed ## deploy to Google Cloud, or change what differs | PROJECT=my-project DATABASE_URL=... GEMINI_API_KEY=... GALLERY=1
	@$(RUN) -m infra.cloud deploy

verify: .venv/installed ## drop a sample into the deployed bucket and wait for its result | PROJECT=my-project
	@$(RUN) -m infra.cloud verify

backfill: .venv/installed ## process what is already in the uploads bucket | PROJECT=my-project BUCKET=... PREFIX=ana/ RATE=5
	@$(RUN) -m infra.cloud backfill

redescribe: .venv/installed ## have Gemini describe again what another prompt or model described | OWNER=ana SINCE=2026-11-01 ALL=1 STATE=.dropcap or PROJECT=my-project
	@$(RUN) -m $(if $(PROJECT),infra.cloud redescribe,infra.redescribe --state $(STATE))

rollback: .venv/installed ## route all traffic to the previous revision | PROJECT=my-project
	@$(RUN) -m infra.cloud rollback

logs: .venv/installed ## show what the deployed functions log | PROJECT=my-project FUNCTION=on-upload SINCE=1h SEVERITY=WARNING
	@$(RUN) -m infra.cloud logs

open: .venv/installed ## show where gallery, dashboard, functions and buckets are | PROJECT=my-project
	@$(RUN) -m infra.cloud open

destroy: .venv/installed ## delete everything but the data; DATA=1 deletes the data, too | PROJECT=my-project DATA=1
	@$(RUN) -m infra.cloud destroy

build/random-base/model.json: | .venv-model/installed
	@$(EXPORT) -m model_export export --checkpoint random-base --out build/random-base

.venv/installed: infra/pip.txt functions/requirements.txt infra/requirements.txt
	@sh infra/environment.sh .venv functions/requirements.txt infra/requirements.txt

# What is deployed, and nothing else: google-genai loads aiohttp where that is installed.
.venv-deployed/installed: infra/pip.txt functions/requirements.txt
	@sh infra/environment.sh .venv-deployed functions/requirements.txt

# Python in .venv-dev also finds the packages of .venv-model once that is installed: tests and benchmarks use PyTorch.
.venv-dev/installed: requirements.txt infra/pip.txt functions/requirements.txt infra/requirements.txt
	@sh infra/environment.sh .venv-dev functions/requirements.txt infra/requirements.txt requirements.txt
	@for folder in .venv-dev/lib/*/site-packages; do \
	    echo "../../../../.venv-model/$${folder#.venv-dev/}" >"$$folder/venv_model.pth"; done

.venv-model/installed: infra/pip.txt functions/requirements.txt model_export/requirements.txt
	@sh infra/environment.sh .venv-model functions/requirements.txt model_export/requirements.txt

.venv-bench/installed: infra/pip.txt tests/bench/requirements.txt
	@sh infra/environment.sh .venv-bench tests/bench/requirements.txt
