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
LDLIBS  += $(DEPS_LIBS) -lm -pthread
LDFLAGS += $(SAN)

LIB_DIRS := base quant backend backend/cpu parallel tokenizer media model engine
APP_DIRS := server cli bench
LIB_SRC  := $(foreach d,$(LIB_DIRS),$(wildcard src/$(d)/*.c))
APP_SRC  := $(foreach d,$(APP_DIRS),$(wildcard src/$(d)/*.c))
LIB_OBJ  := $(LIB_SRC:%.c=$(BUILD)/%.o)
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

$(BUILD)/libagl.a: $(LIB_OBJ)
	$(call say,AR,$@) rm -f $@ && ar rcs $@ $^

$(BUILD)/libagl.so: $(LIB_OBJ)
	$(call say,LD,$@) $(CC) -shared -Wl,-soname,libagl.so.0 $(LDFLAGS) -o $@ $^ $(LDLIBS)

# What the tests of server, cli and bench link: only the objects they use.
$(BUILD)/libapp.a: $(filter-out $(MAIN_OBJ),$(APP_OBJ))
	$(call say,AR,$@) rm -f $@ && ar rcs $@ $^

$(BUILD)/autoglm: $(APP_OBJ) $(BUILD)/libagl.a
	$(call say,LD,$@) $(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# ---- tests -----------------------------------------------------------------
UNIT_SRC   := $(wildcard tests/unit/*/test_*.c) $(wildcard tests/kernel/check_*.c) $(wildcard tests/golden/test_*.c)
UNIT_BIN   := $(UNIT_SRC:%.c=$(BUILD)/%)
TEST_LIB   := $(wildcard tests/support/*.c)
TEST_OBJ   := $(TEST_LIB:%.c=$(BUILD)/%.o)
$(BUILD)/tests/%: CFLAGS += -Itests $(shell pkg-config --cflags cmocka 2>/dev/null)
# Server tests answer from a scripted engine: objects stand before the library that has the real one.
SERVER_AID := $(filter-out tests/unit/server/test_%,$(wildcard tests/unit/server/*.c))
$(filter $(BUILD)/tests/unit/server/%,$(UNIT_BIN)): $(SERVER_AID:%.c=$(BUILD)/%.o)
$(UNIT_BIN): $(BUILD)/%: $(BUILD)/%.o $(TEST_OBJ) $(BUILD)/libapp.a $(BUILD)/libagl.a
	$(call say,LD,$@) $(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS) -lcmocka
.PRECIOUS: $(BUILD)/tests/%.o

test-binaries: $(UNIT_BIN)
test: all $(UNIT_BIN)
	$(Q)tests/run_unit.sh $(UNIT_BIN)

# The same list under sanitizers, in build folders of their own.
asan:
	$(MAKE) BUILD=$(BUILD)/asan OPT="-O1 -g" SAN="-fsanitize=address,undefined -fno-sanitize-recover=undefined" test
tsan:
	$(MAKE) BUILD=$(BUILD)/tsan OPT="-O1 -g" SAN="-fsanitize=thread" test

# Many streams with aborts on a tiny model, and what scheduler and caches are worth; see tests/load/.
LOAD_BIN := $(BUILD)/tests/load/load_test $(BUILD)/tests/load/engine_ratios
$(LOAD_BIN): %: %.o $(BUILD)/tests/support/test_checkpoint.o $(BUILD)/libagl.a
	$(call say,LD,$@) $(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
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
	$(MAKE) BUILD=$(BUILD)/fuzzing CC=clang OPT="-O1 -g -Wno-unknown-warning-option" SAN="$(FUZZ_FLAGS)" fuzz-binaries
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
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@LIBS@|$(DEPS)|' deploy/agl.pc.in > $(DESTDIR)$(PREFIX)/lib/pkgconfig/agl.pc
	if [ -d models ]; then cp -r models $(DESTDIR)$(PREFIX)/share/autoglm/; fi
	cp -r data $(DESTDIR)$(PREFIX)/share/autoglm/

clean:
	rm -rf $(BUILD)

help:
	@echo "make [all]      build/autoglm, libagl.a, libagl.so"
	@echo "make test       unit, kernel and golden tests (./run_tests.sh runs everything)"
	@echo "make asan|tsan  the same under sanitizers"
	@echo "make load-test  256 streams with aborts on the engine; what scheduler and caches are worth"
	@echo "make soak       the server under load and abuse; SOAK=\"--seconds 600\""
	@echo "make fuzz       libFuzzer targets in build/fuzzing/fuzz (needs clang)"
	@echo "make install    PREFIX=$(PREFIX)"

.PHONY: all test test-binaries load-test soak asan tsan fuzz fuzz-binaries install clean help
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
