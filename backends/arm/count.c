/* A plugin of qemu (TCG plugins, include/qemu/qemu-plugin.h): counts the instructions that a program executes
 * between calls of runner_begin and runner_end, which runner.c makes around each operator.
 *
 *     qemu-aarch64 -plugin count.so,out=FILE runner ...
 *
 * FILE gets a line per pair of calls. Debian ships no header of the interface; what is used of it is declared
 * here. Blocks of code are counted as they begin: they end at jumps, and calls are jumps. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

#define EXPORT __attribute__((visibility("default")))
#ifndef API
#define API 1
#endif
enum { NO_REGISTERS = 0 };

EXPORT int qemu_plugin_version = API;

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*called)(plugin_id id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, void (*called)(unsigned cpu, void *data),
                                          int registers, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *instruction);

static FILE *out;
static int counting;
static uint64_t count;

static void begin(unsigned cpu, void *data)
{
    (void)cpu;
    (void)data;
    counting = 1;
    count = 0;
}

static void end(unsigned cpu, void *data)
{
    (void)cpu;
    (void)data;
    if (counting) {
        fprintf(out, "%llu\n", (unsigned long long)count);
        fflush(out);
    }
    counting = 0;
}

static void execute(unsigned cpu, void *data)
{
    (void)cpu;
    count += counting ? (uintptr_t)data : 0;
}

static void translate(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    const size_t instructions = qemu_plugin_tb_n_insns(tb);
    const char *symbol = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(tb, 0));
    if (symbol && !strcmp(symbol, "runner_begin"))
        qemu_plugin_register_vcpu_tb_exec_cb(tb, begin, NO_REGISTERS, NULL);
    else if (symbol && !strcmp(symbol, "runner_end"))
        qemu_plugin_register_vcpu_tb_exec_cb(tb, end, NO_REGISTERS, NULL);
    else
        qemu_plugin_register_vcpu_tb_exec_cb(tb, execute, NO_REGISTERS, (void *)instructions);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4))
            out = fopen(argv[i] + 4, "w");
    if (!out)
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    return 0;
}
