# autoglm - GLM-4V serving in C. `make` builds what this machine can; `make help` lists the rest.
CC      ?= cc
PREFIX  ?= /usr/local
BUILD   ?= build
V       ?= 0
Q       := $(if $(filter 0,$(V)),@,)
say      = $(if $(filter 0,$(V)),@printf '  %-6s %s\n' $(1) $(2);,)

VERSION := $(shell sed -n 's/^\#define AGL_VERSION "\(.*\)"/\1/p' include/agl/agl.h)
DEPS    := libmicrohttpd json-c libpcre2-8 libdeflate libjpeg libwebp nettle libcurl
MISSING := $(strip $(foreach d,$(DEPS),$(if $(shell pkg-config --exists $(d) 2>/dev/null && echo yes),,$(d))))
ifneq ($(MISSING),)
ifeq ($(filter clean help,$(MAKECMDGOALS)),)
$(error libraries not found: $(MISSING). On Debian/Ubuntu: apt-get install $(shell tr '\n' ' ' < packages.txt))
endif
endif
DEPS_CFLAGS := $(shell pkg-config --cflags $(DEPS) 2>/dev/null)
DEPS_LIBS   := $(shell pkg-config --libs $(DEPS) 2>/dev/null)

WARN    := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
OPT     ?= -O2 -g
SAN     ?=
# -ffp-contract=off: the same sum in the same order on every compiler; kernels ask for FMA by name.
CFLAGS  += -std=c17 -D_GNU_SOURCE $(WARN) $(OPT) $(SAN) -ffp-contract=off -fno-math-errno -pthread -fPIC -fvisibility=hidden \
           -Iinclude -Isrc $(DEPS_CFLAGS)
LDLIBS  += $(DEPS_LIBS) $(CUDA_LIBS) -lm -pthread
LDFLAGS += $(SAN)

# ---- CUDA ------------------------------------------------------------------
# CUDA=auto  for the GPUs of this machine, if it has nvcc and any; else without     CUDA=0  without
# CUDA=1     for the GPUs in CUDA_ALL, with PTX for later ones; CUDA_ARCHS="86 89" names others
CUDA ?= auto
ifeq ($(filter-out 0,$(CUDA))$(filter clean help,$(MAKECMDGOALS)),$(CUDA))
NVCC      ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
NVCC      := $(NVCC)
endif
CUDA_SAID := $(if $(filter 0,$(CUDA)),off,nvcc was not found): CPU only
ifneq ($(NVCC),)
NVCC_VERSION := $(shell $(NVCC) --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
NVCC_KNOWS   := $(patsubst sm_%,%,$(shell $(NVCC) --list-gpu-code))
SM_90        := $(if $(filter 11.%,$(NVCC_VERSION)),90,90a)
CUDA_ALL     := $(filter $(NVCC_KNOWS) $(SM_90),80 86 89 $(SM_90) 120)
CUDA_HERE    := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | awk '$$1 >= 80' | sort -nu)
# A GPU that is newer than nvcc runs the PTX.
CUDA_HERE    := $(if $(filter-out $(NVCC_KNOWS),$(CUDA_HERE)),$(CUDA_ALL),$(CUDA_HERE:90=$(SM_90)))
CUDA_ARCHS   ?= $(if $(filter auto,$(CUDA)),$(CUDA_HERE),$(CUDA_ALL))
CUDA_SAID    := $(NVCC) $(NVCC_VERSION) is here, but no GPU from sm_80 on: CPU only; CUDA=1 builds for all
endif
ifneq ($(CUDA_ARCHS),)
CUDA_PTX     := $(if $(filter-out $(CUDA_ARCHS),$(CUDA_ALL)),,90)
CUDA_SAID    := $(NVCC) $(NVCC_VERSION), $(CUDA_ARCHS:%=sm_%)$(CUDA_PTX:%= + PTX)
CUDA_ROOT    := $(patsubst %/bin/,%,$(dir $(realpath $(NVCC))))
CUDA_LIBS    := $(firstword $(wildcard $(CUDA_ROOT)/lib64/libcudart_static.a \
                  $(CUDA_ROOT)/targets/*/lib/libcudart_static.a) -lcudart_static) -ldl -lrt
NVCCFLAGS    += -std=c++17 -O3 -lineinfo --threads 2 -Iinclude -Isrc -Werror all-warnings \
                -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics \
                $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
                $(foreach a,$(CUDA_PTX),-gencode arch=compute_$(a),code=compute_$(a))
CUDA_SRC     := $(wildcard src/backend/cuda/*.cu src/backend/cuda/*/*.cu)
else ifeq ($(CUDA),1)
$(if $(filter clean help,$(MAKECMDGOALS)),,$(error CUDA=1: nvcc was not found; NVCC=/path/to/nvcc names it))
endif
CUDA_OBJ  := $(CUDA_SRC:%.cu=$(BUILD)/%.cu.o)

LIB_DIRS := base quant backend backend/cpu parallel tokenizer media model engine
APP_DIRS := server cli bench
LIB_SRC  := $(filter-out $(if $(CUDA_SRC),src/backend/no_cuda.c),$(foreach d,$(LIB_DIRS),$(wildcard src/$(d)/*.c)))
APP_SRC  := $(foreach d,$(APP_DIRS),$(wildcard src/$(d)/*.c))
LIB_OBJ  := $(LIB_SRC:%.c=$(BUILD)/%.o) $(CUDA_OBJ)
APP_OBJ  := $(APP_SRC:%.c=$(BUILD)/%.o)
MAIN_OBJ := $(BUILD)/src/cli/main.o

# Instruction sets only on the files that are named after them; chosen at run time.
MACHINE := $(shell $(CC) -dumpmachine)
$(BUILD)/%_avx2.o:   CFLAGS += $(if $(findstring x86_64,$(MACHINE)),-mavx2 -mfma -mf16c)
$(BUILD)/%_avx512.o: CFLAGS += $(if $(findstring x86_64,$(MACHINE)),-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c)
$(BUILD)/src/backend/cpu/%.o $(BUILD)/src/bench/machine.o: OPT := -O3 -g

all: $(BUILD)/autoglm $(BUILD)/libagl.a $(BUILD)/libagl.so

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<) $(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

# What kind of build this folder holds; changes when CUDA, CUDA_ARCHS or nvcc do.
$(BUILD)/cuda.config: FORCE
	@mkdir -p $(@D)
	@echo '$(CUDA_SAID)' | cmp -s - $@ || { echo '  CUDA   $(CUDA_SAID)'; echo '$(CUDA_SAID)' > $@; }

$(BUILD)/%.cu.o: %.cu $(BUILD)/cuda.config
	@mkdir -p $(@D)
	$(call say,NVCC,$<) $(NVCC) $(NVCCFLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

$(BUILD)/libagl.a: $(LIB_OBJ) $(BUILD)/cuda.config
	$(call say,AR,$@) rm -f $@ && ar rcs $@ $(LIB_OBJ)

$(BUILD)/libagl.so: $(LIB_OBJ) $(BUILD)/cuda.config
	$(call say,LD,$@) $(CC) -shared -Wl,-soname,libagl.so.0 $(LDFLAGS) -o $@ $(LIB_OBJ) $(LDLIBS)

# Everything with CUDA for every GPU, in a build folder of its own; needs nvcc, no GPU.
cuda:
	$(MAKE) BUILD=$(BUILD)/cuda CUDA=1 all

# What the tests of server, cli and bench link: only the objects they use.
$(BUILD)/libapp.a: $(filter-out $(MAIN_OBJ),$(APP_OBJ))
	$(call say,AR,$@) rm -f $@ && ar rcs $@ $^

$(BUILD)/autoglm: $(APP_OBJ) $(BUILD)/libagl.a
	$(call say,LD,$@) $(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# ---- tests -----------------------------------------------------------------
CUDA_CHECK := $(wildcard tests/kernel/check_cuda*.c)
UNIT_SRC   := $(wildcard tests/unit/*/test_*.c) $(filter-out $(CUDA_CHECK),$(wildcard tests/kernel/check_*.c)) $(wildcard tests/golden/test_*.c)
UNIT_BIN   := $(UNIT_SRC:%.c=$(BUILD)/%)
TEST_LIB   := $(wildcard tests/support/*.c)
TEST_OBJ   := $(TEST_LIB:%.c=$(BUILD)/%.o)
$(BUILD)/tests/%: CFLAGS += -Itests $(shell pkg-config --cflags cmocka 2>/dev/null)
# Server tests answer from a scripted engine: objects stand before the library that has the real one.
SERVER_AID := $(filter-out tests/unit/server/test_%,$(wildcard tests/unit/server/*.c))
$(filter $(BUILD)/tests/unit/server/%,$(UNIT_BIN)): $(SERVER_AID:%.c=$(BUILD)/%.o)
# tests/support/test_queued_device.c stands before the CPU backend.
QUEUED     := -Wl,--wrap=agl_backend_cpu_create
$(UNIT_BIN): $(BUILD)/%: $(BUILD)/%.o $(TEST_OBJ) $(BUILD)/libapp.a $(BUILD)/libagl.a
	$(call say,LD,$@) $(CC) $(LDFLAGS) $(QUEUED) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS) -lcmocka
.PRECIOUS: $(BUILD)/tests/%.o

# The CUDA backend run on the CPU: its sources compiled by a C++ compiler against the headers of
# tests/support/cuda_emulator; docs/KERNELS.md, "Kernels without a GPU". No part of CUDA is needed.
# ThreadSanitizer does not follow the emulator's fibers; the emulator uses one thread at a time.
CXX       ?= c++
EMU       := tests/support/cuda_emulator
EMU_FLAGS := -std=c++17 -Wall -Wextra -Werror -Wno-sign-compare -Wno-unknown-pragmas $(OPT) \
             $(filter-out -fsanitize=thread,$(SAN)) -ffp-contract=off -fno-math-errno -fno-exceptions -fno-rtti \
             -pthread -fPIC -fvisibility=hidden -I$(EMU) -Iinclude -Isrc -Itests
EMU_OBJ   := $(patsubst $(EMU)/%.cc,$(BUILD)/emulated/%.o,$(filter-out %/cublaslt.cc,$(wildcard $(EMU)/*.cc)))
EMU_CUDA  := $(patsubst src/backend/cuda/%.cu,$(BUILD)/emulated/cuda/%.o,$(wildcard src/backend/cuda/*.cu))
EMU_CHECK := $(CUDA_CHECK:tests/kernel/%.c=$(BUILD)/tests/emulated/%)
EMU_BIN   := $(BUILD)/tests/emulated/check_emulator $(EMU_CHECK)
EMU_LINK   = $(call say,LD,$@) $(CXX) $(LDFLAGS) $(QUEUED) -o $@ $(filter %.o,$^) $(filter %.a,$^) -Wl,--disable-new-dtags,-rpath,'$$ORIGIN/../../emulated' \
             -rdynamic $(LDLIBS) -ldl -lcmocka

$(BUILD)/emulated/%.o: $(EMU)/%.cc
	@mkdir -p $(@D)
	$(call say,CXX,$<) $(CXX) $(EMU_FLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/emulated/cuda/%.o: src/backend/cuda/%.cu
	@mkdir -p $(@D)
	$(call say,EMU,$<) $(CXX) $(EMU_FLAGS) -MMD -MP -x c++ -c -o $@ $<
$(BUILD)/emulated/check_emulator.o: tests/kernel/check_emulator.cu
	@mkdir -p $(@D)
	$(call say,EMU,$<) $(CXX) $(EMU_FLAGS) -MMD -MP -x c++ -c -o $@ $<
$(BUILD)/tests/emulated/check_emulator: $(BUILD)/emulated/check_emulator.o $(EMU_OBJ)
	@mkdir -p $(@D)
	$(EMU_LINK)
$(BUILD)/emulated/libcublasLt.so.13: $(EMU)/cublaslt.cc
	@mkdir -p $(@D)
	$(call say,CXX,$<) $(CXX) $(EMU_FLAGS) -MMD -MP -MF $@.d -shared -o $@ $<

# Checks of the CUDA backend, twice: emulated, and for a GPU in a build with CUDA. Beside them, on
# the same two, the networks against the reference and the engine's equivalences.
CUDA_TEST := $(CUDA_CHECK) tests/golden/test_model.c tests/unit/engine/test_equivalence.c $(wildcard tests/cuda/*.c)
CUDA_BIN  := $(foreach t,$(CUDA_TEST),$(BUILD)/tests/cuda/$(basename $(notdir $(t))))
define cuda_test
$(BUILD)/tests/cuda/$(basename $(notdir $(1))): $(1:%.c=$(BUILD)/%.o) $(TEST_OBJ) $(BUILD)/libapp.a $(BUILD)/libagl.a
	@mkdir -p $$(@D)
	$$(call say,LD,$$@) $(CC) $$(LDFLAGS) $(QUEUED) -o $$@ $$(filter %.o,$$^) $$(filter %.a,$$^) $$(LDLIBS) -lcmocka
$(BUILD)/tests/emulated/$(basename $(notdir $(1))): $(1:%.c=$(BUILD)/%.o) $(TEST_OBJ) $(EMU_CUDA) $(EMU_OBJ) \
        $(BUILD)/libapp.a $(BUILD)/libagl.a | $(BUILD)/emulated/libcublasLt.so.13
	@mkdir -p $$(@D)
	$$(EMU_LINK)
endef
$(foreach t,$(CUDA_TEST),$(eval $(call cuda_test,$(t))))

cuda-test-binaries: all $(CUDA_BIN)
cuda-tests:
	$(MAKE) BUILD=$(BUILD)/cuda CUDA=1 cuda-test-binaries
# On this machine's GPU; prints the reason and skips without one.
test-cuda: cuda-tests
	BUILD=$(BUILD)/cuda tests/cuda/run.sh check
# Minutes: what a GPU is to compute with the networks, on the CPU.
test-emulated: $(EMU_BIN) $(BUILD)/tests/emulated/test_model $(BUILD)/tests/emulated/test_equivalence
	for dtype in float32 bfloat16 float16; do \
	    AGL_TEST_DEVICE=cuda AGL_TEST_DTYPE=$$dtype tests/run_unit.sh $(BUILD)/tests/emulated/test_model || exit 1; \
	done
	AGL_TEST_DEVICE=cuda tests/run_unit.sh $(BUILD)/tests/emulated/test_equivalence
	for order in 7 8 9; do CUDA_EMULATOR_ORDER=$$order tests/run_unit.sh $(EMU_BIN) || exit 1; done

test-binaries: $(UNIT_BIN) $(EMU_BIN)
# Emulated kernels run with threads and blocks in ascending and in descending order.
EMU_ORDERS ?= 0 1
test: all $(UNIT_BIN) $(EMU_BIN)
	$(Q)tests/run_unit.sh $(UNIT_BIN)
	$(Q)for order in $(EMU_ORDERS); do CUDA_EMULATOR_ORDER=$$order tests/run_unit.sh $(EMU_BIN) || exit 1; done

# The same list under sanitizers, in build folders of their own.
asan:
	$(MAKE) BUILD=$(BUILD)/asan CUDA=0 OPT="-O1 -g" SAN="-fsanitize=address,undefined -fno-sanitize-recover=undefined" EMU_ORDERS=1 test
tsan:
	$(MAKE) BUILD=$(BUILD)/tsan CUDA=0 OPT="-O1 -g" SAN="-fsanitize=thread" EMU_ORDERS=1 test

# Many streams with aborts on a tiny model, and what scheduler and caches are worth; see tests/load/.
LOAD_BIN := $(BUILD)/tests/load/load_test $(BUILD)/tests/load/engine_ratios
$(LOAD_BIN): %: %.o $(BUILD)/tests/support/test_checkpoint.o $(BUILD)/tests/support/test_queued_device.o $(BUILD)/libagl.a
	$(call say,LD,$@) $(CC) $(LDFLAGS) $(QUEUED) -o $@ $^ $(LDLIBS)
load-test: $(LOAD_BIN)
	$(BUILD)/tests/load/load_test $(LOAD_ARGS)
	$(BUILD)/tests/load/engine_ratios

# The real server under hundreds of clients, some of them hostile: make soak SOAK="--seconds 600".
SOAK     ?= --seconds 60
SOAK_OBJ := $(patsubst %.c,$(BUILD)/%.o,tests/load/http_soak.c $(wildcard tests/load/soak_*.c))
$(BUILD)/tests/load/http_soak: $(SOAK_OBJ) $(BUILD)/libapp.a $(BUILD)/libagl.a
	$(call say,LD,$@) $(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(BUILD)/tests/load/tiny/config.json: tests/support/make_tiny_checkpoint.py
	$(Q)python3 $< $(@D) > /dev/null
soak: $(BUILD)/autoglm $(BUILD)/tests/load/http_soak $(BUILD)/tests/load/tiny/config.json
	$(BUILD)/tests/load/http_soak --server $(BUILD)/autoglm --model $(BUILD)/tests/load/tiny $(SOAK)

# libFuzzer targets (clang), with AddressSanitizer and UndefinedBehaviorSanitizer.
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BIN := $(FUZZ_SRC:tests/fuzz/%.c=$(BUILD)/fuzz/%)
FUZZ_FLAGS := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
fuzz: 
	$(MAKE) BUILD=$(BUILD)/fuzzing CUDA=0 CC=clang OPT="-O1 -g -Wno-unknown-warning-option" SAN="$(FUZZ_FLAGS)" fuzz-binaries
fuzz-binaries: $(FUZZ_BIN)
$(BUILD)/fuzz/fuzz_http: $(BUILD)/tests/unit/server/fake_engine.o
$(BUILD)/fuzz/%: tests/fuzz/%.c $(BUILD)/libapp.a $(BUILD)/libagl.a
	@mkdir -p $(@D)
	$(call say,FUZZ,$@) $(CC) $(CFLAGS) -fsanitize=fuzzer -o $@ $(filter %.c %.o,$^) $(filter %.a,$^) $(LDLIBS)

# ---- install ---------------------------------------------------------------
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include/agl $(DESTDIR)$(PREFIX)/share/autoglm
	install -m 755 $(BUILD)/autoglm run_autoglm_server.sh $(DESTDIR)$(PREFIX)/bin/
	install -m 644 include/agl/agl.h $(DESTDIR)$(PREFIX)/include/agl/
	install -m 644 $(BUILD)/libagl.a $(DESTDIR)$(PREFIX)/lib/
	install -m 755 $(BUILD)/libagl.so $(DESTDIR)$(PREFIX)/lib/libagl.so.0
	ln -sf libagl.so.0 $(DESTDIR)$(PREFIX)/lib/libagl.so
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@LIBS@|$(DEPS)|' -e 's|@CUDA_LIBS@|$(CUDA_LIBS)|' deploy/agl.pc.in > $(DESTDIR)$(PREFIX)/lib/pkgconfig/agl.pc
	if [ -d models ]; then cp -r models $(DESTDIR)$(PREFIX)/share/autoglm/; fi
	cp -r data $(DESTDIR)$(PREFIX)/share/autoglm/
	install -d $(DESTDIR)$(PREFIX)/share/autoglm/docs/platforms/results
	install -m 644 docs/platforms/results/*.json $(DESTDIR)$(PREFIX)/share/autoglm/docs/platforms/results/

clean:
	rm -rf $(BUILD)

help:
	@echo "make [all]      build/autoglm, libagl.a, libagl.so"
	@echo "make cuda       the same with CUDA for every GPU, in build/cuda (needs nvcc, no GPU);"
	@echo "                by itself make builds for the GPUs of this machine: CUDA=0|1, CUDA_ARCHS=\"86 89\""
	@echo "make test       unit, kernel and golden tests (./run_tests.sh runs everything)"
	@echo "make test-cuda  the CUDA backend on a GPU; make test-emulated: its networks without one (minutes)"
	@echo "make asan|tsan  the same under sanitizers"
	@echo "make load-test  256 streams with aborts on the engine; what scheduler and caches are worth"
	@echo "make soak       the server under load and abuse; SOAK=\"--seconds 600\""
	@echo "make fuzz       libFuzzer targets in build/fuzzing/fuzz (needs clang)"
	@echo "make install    PREFIX=$(PREFIX)"

.PHONY: FORCE all cuda cuda-tests cuda-test-binaries test-cuda test-emulated test test-binaries load-test soak asan tsan fuzz fuzz-binaries install clean help
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
