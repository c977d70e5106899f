/* A persistent thread pool: one caller at a time, static partition, spin first and sleep later. */
#define _GNU_SOURCE
#include "qc.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define MAX_WORKERS 63
#define SPINS 4000
#define MIN_PARALLEL_COST 300000

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() ((void)0)
#endif

/* `ticket` holds (sequence << 16) | (next part << 8) | parts. Every thread claims parts of the job of the
 * sequence number that it has seen, so a worker that wakes late takes nothing, and a caller whose
 * workers do not get a processor computes all parts itself. */
static atomic_flag busy = ATOMIC_FLAG_INIT;
static _Atomic uint64_t ticket;
static atomic_int pending, sleepers, stopping;
static qc_task current_task;
static const void *current_job;
static pthread_t workers[MAX_WORKERS];
static int worker_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;

static uint64_t wait_for_job(uint64_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        const uint64_t sequence = atomic_load_explicit(&ticket, memory_order_acquire) >> 16;
        if (sequence != seen)
            return sequence;
        RELAX();
    }
    pthread_mutex_lock(&lock);
    atomic_fetch_add(&sleepers, 1);
    uint64_t sequence;
    while ((sequence = atomic_load(&ticket) >> 16) == seen)
        pthread_cond_wait(&wake, &lock);
    atomic_fetch_sub(&sleepers, 1);
    pthread_mutex_unlock(&lock);
    return sequence;
}

static void publish(uint64_t parts)
{
    atomic_store(&ticket, (((atomic_load(&ticket) >> 16) + 1) << 16) | parts);
    if (atomic_load(&sleepers)) {
        pthread_mutex_lock(&lock);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&lock);
    }
}

/* Computes parts of a job until none is left. The job stays in place while a claimed part is pending. */
static void compute_parts(uint64_t sequence)
{
    uint64_t word = atomic_load(&ticket);
    while (word >> 16 == sequence) {
        const int part = (int)(word >> 8 & 255), parts = (int)(word & 255);
        if (part >= parts)
            return;
        if (!atomic_compare_exchange_weak(&ticket, &word, word + 256))
            continue;
        current_task(current_job, part, parts);
        atomic_fetch_sub_explicit(&pending, 1, memory_order_release);
        word = atomic_load(&ticket);
    }
}

static void *work(void *unused)
{
    uint64_t seen = 0;
    (void)unused;
    for (;;) {
        seen = wait_for_job(seen);
        if (atomic_load(&stopping))
            return NULL;
        compute_parts(seen);
    }
}

static void forget_workers(void)
{
    worker_count = 0;
    atomic_store(&ticket, 0);
    atomic_store(&sleepers, 0);
    atomic_flag_clear(&busy);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&wake, NULL);
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, forget_workers);
}

__attribute__((destructor)) static void stop_workers(void)
{
    if (worker_count == 0)
        return;
    atomic_store(&stopping, 1);
    publish(0);
    for (int i = 0; i < worker_count; i++)
        pthread_join(workers[i], NULL);
    worker_count = 0;
}

/* Returns the number of threads the caller may use; 1 means that the pool is not held. */
int qc_pool_acquire(int threads)
{
    if (threads <= 1 || atomic_flag_test_and_set_explicit(&busy, memory_order_acquire))
        return 1;
    if (threads > MAX_WORKERS + 1)
        threads = MAX_WORKERS + 1;
    while (worker_count < threads - 1) {
        if (pthread_create(&workers[worker_count], NULL, work, NULL))
            break;
        worker_count++;
    }
    if (worker_count == 0) {
        qc_pool_release();
        return 1;
    }
    return worker_count + 1 < threads ? worker_count + 1 : threads;
}

void qc_pool_release(void)
{
    atomic_flag_clear_explicit(&busy, memory_order_release);
}

/* Runs task(job, i, count) for every i < count; `cost` is in multiply-accumulates. */
void qc_parallel(const qc_context *context, qc_task task, const void *job, int64_t cost)
{
    const int count = context->threads;
    if (count == 1 || cost < MIN_PARALLEL_COST) {
        task(job, 0, 1);
        return;
    }
    current_task = task;
    current_job = job;
    atomic_store(&pending, count);
    publish((uint64_t)count);
    compute_parts(atomic_load(&ticket) >> 16);
    for (int i = 0; atomic_load_explicit(&pending, memory_order_acquire); i++) {
        if (i < SPINS)
            RELAX();
        else
            sched_yield();
    }
}
