/* A stand-in for NVIDIA's libnvidia-ml.so.1: there is no GPU here. It says what the file
 * $NVML_STAND_IN holds.
 *
 * Its interface is nvml.h's, as nvidia-ml-py calls it. Lines of the file:
 *
 *	init ERROR			what nvmlInit returns
 *	count N				how many GPUs there are
 *	gpu G pci DOMAIN BUS DEVICE
 *	gpu G lost ERROR		what everything but its PCI address returns
 *	gpu G mig 1			it is in MIG mode
 *	gpu G instance SLOT ID H	an instance, of which "gpu H" lines tell
 *	gpu G utilization ERROR		what nvmlDeviceGetProcessUtilization returns
 *	gpu G compute|graphics|mps PID BYTES
 *	gpu G sample PID TIME SM MEMORY ENCODER DECODER
 *	gpu G stale ...			the same, given however old it is
 *
 * Each nvmlInit and nvmlShutdown is a line of $NVML_STAND_IN.calls.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	SUCCESS = 0,
	NOT_SUPPORTED = 3,
	NOT_FOUND = 6,
	INSUFFICIENT_SIZE = 7,
};

typedef void *device;

struct pci {
	char legacy[16];
	unsigned int domain, bus, device, id, subsystem;
	char bus_id[32];
};

struct process {
	unsigned int pid;
	unsigned long long memory;
	unsigned int gpu_instance, compute_instance;
};

struct sample {
	unsigned int pid;
	unsigned long long time;
	unsigned int sm, memory, encoder, decoder;
};

static FILE *state(void)
{
	const char *path = getenv("NVML_STAND_IN");
	FILE *file = path ? fopen(path, "r") : NULL;

	if (!file)
		abort();
	return file;
}

static void called(const char *name)
{
	char path[4096];
	FILE *file;

	snprintf(path, sizeof(path), "%s.calls", getenv("NVML_STAND_IN"));
	file = fopen(path, "a");
	fprintf(file, "%s\n", name);
	fclose(file);
}

/* What follows the n-th line's first words; 0 where there are not so many. */
static int find(const char *words, int n, char *rest)
{
	char line[256];
	int found = 0;
	FILE *file = state();

	while (!found && fgets(line, sizeof(line), file))
		if (!strncmp(line, words, strlen(words)) && n-- == 0) {
			strcpy(rest, line + strlen(words));
			found = 1;
		}
	fclose(file);
	return found;
}

static int of(device gpu, const char *what, int n, char *rest)
{
	char words[64];

	snprintf(words, sizeof(words), "gpu %d %s ", (int)(long)gpu - 1, what);
	return find(words, n, rest);
}

static int error(device gpu, const char *what)
{
	char rest[256];

	return of(gpu, what, 0, rest) ? atoi(rest) : SUCCESS;
}

int nvmlInitWithFlags(unsigned int flags)
{
	char rest[256];

	(void)flags;
	called("init");
	return find("init ", 0, rest) ? atoi(rest) : SUCCESS;
}

int nvmlShutdown(void)
{
	called("shutdown");
	return SUCCESS;
}

const char *nvmlErrorString(int result)
{
	static char text[32];

	snprintf(text, sizeof(text), "error %d of the stand-in", result);
	return text;
}

int nvmlDeviceGetCount_v2(unsigned int *count)
{
	char rest[256];

	*count = find("count ", 0, rest) ? atoi(rest) : 0;
	return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, device *gpu)
{
	*gpu = (device)(long)(index + 1);
	return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(device gpu, struct pci *pci)
{
	char rest[256];

	if (!of(gpu, "pci", 0, rest))
		return error(gpu, "lost");
	memset(pci, 0, sizeof(*pci));
	sscanf(rest, "%u %u %u", &pci->domain, &pci->bus, &pci->device);
	snprintf(pci->bus_id, sizeof(pci->bus_id), "%08X:%02X:%02X.0", pci->domain, pci->bus,
		 pci->device);
	return SUCCESS;
}

int nvmlDeviceGetMigMode(device gpu, unsigned int *current, unsigned int *pending)
{
	char rest[256];

	if (!of(gpu, "mig", 0, rest))
		return NOT_SUPPORTED;
	*current = *pending = atoi(rest);
	return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(device gpu, unsigned int *count)
{
	(void)gpu;
	*count = 7;
	return SUCCESS;
}

/* The n-th slot's instance; its number is returned by the next function. */
int nvmlDeviceGetMigDeviceHandleByIndex(device gpu, unsigned int index, device *instance)
{
	unsigned int slot, id, handle;
	char rest[256];

	for (int n = 0; of(gpu, "instance", n, rest); n++)
		if (sscanf(rest, "%u %u %u", &slot, &id, &handle) == 3 && slot == index) {
			*instance = (device)(long)(handle + 1);
			return SUCCESS;
		}
	return NOT_FOUND;
}

int nvmlDeviceGetGpuInstanceId(device instance, unsigned int *number)
{
	unsigned int slot, id, handle;
	char rest[256];

	for (int n = 0; of((device)1, "instance", n, rest); n++)
		if (sscanf(rest, "%u %u %u", &slot, &id, &handle) == 3 &&
		    (device)(long)(handle + 1) == instance) {
			*number = id;
			return SUCCESS;
		}
	return NOT_SUPPORTED;
}

static int running(device gpu, const char *kind, unsigned int *count, struct process *found)
{
	unsigned int there = 0, room = *count;
	char rest[256];

	if (error(gpu, "lost"))
		return error(gpu, "lost");
	for (; of(gpu, kind, there, rest); there++)
		if (there < room) {
			memset(&found[there], 0xff, sizeof(*found));
			sscanf(rest, "%u %llu", &found[there].pid, &found[there].memory);
		}
	*count = there;
	return there > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device gpu, unsigned int *count, struct process *found)
{
	return running(gpu, "compute", count, found);
}

/* As an older driver has it. */
int nvmlDeviceGetGraphicsRunningProcesses_v2(device gpu, unsigned int *count, struct process *found)
{
	return running(gpu, "graphics", count, found);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(device gpu, unsigned int *count,
					       struct process *found)
{
	return running(gpu, "mps", count, found);
}

int nvmlDeviceGetProcessUtilization(device gpu, struct sample *found, unsigned int *count,
				    unsigned long long since)
{
	static const char *const kinds[] = {"sample", "stale"};
	unsigned int there = 0, room = found ? *count : 0;
	struct sample one;
	char rest[256];

	if (error(gpu, "utilization"))
		return error(gpu, "utilization");
	for (int kind = 0; kind < 2; kind++)
		for (int n = 0; of(gpu, kinds[kind], n, rest); n++) {
			sscanf(rest, "%u %llu %u %u %u %u", &one.pid, &one.time, &one.sm,
			       &one.memory, &one.encoder, &one.decoder);
			if (kind == 0 && one.time <= since)
				continue;
			if (there < room)
				found[there] = one;
			there++;
		}
	*count = there;
	if (!there)
		return NOT_FOUND;
	return there > room ? INSUFFICIENT_SIZE : SUCCESS;
}
