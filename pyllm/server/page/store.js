// Conversations in the browser's IndexedDB.

const NAME = "conversations";

export class Store {
  /** Where the browser refuses (some private windows do), conversations last as long as the page: `failed`. */
  static async open() {
    const store = new Store();
    try {
      const request = indexedDB.open("pyllm", 1);
      request.onupgradeneeded = () => request.result.createObjectStore(NAME, { keyPath: "id" });
      store._database = await settled(request);
    } catch (error) {
      store.failed = error;
    }
    return store;
  }

  async all() {
    const found = this._database ? await settled(this._objects("readonly").getAll()) : [];
    return found.sort((a, b) => b.updated - a.updated);
  }

  async put(conversation) {
    if (this._database) await settled(this._objects("readwrite").put(conversation));
  }

  async delete(id) {
    if (this._database) await settled(this._objects("readwrite").delete(id));
  }

  _objects(mode) {
    return this._database.transaction(NAME, mode).objectStore(NAME);
  }
}

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
